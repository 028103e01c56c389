import { INDENTS, NEWLINE, SHARED, SHORTEST_TEXT } from './bytes.ts'
import { decodeUtf16 } from './decode.ts'
import { BASE85_KINDS, decodeBase85, decodeEncodedWords, decodeUtf32 } from './decode-rare.ts'
import { joinParts, joinStrings, reverse } from './join.ts'
import type { Layers } from './layers.ts'

/** Base85 digits of nine bytes, and how far from a word's begin its first sign is looked for. */
const SHORTEST_BASE85 = 12
const FARTHEST_SIGN = 48

/** Encodings that a sign or two give away. */
export class Signs {
  readonly #layers: Layers

  constructor(layers: Layers) {
    this.#layers = layers
  }

  /** Parts that an array, a program's operator or a bracket keeps apart. */
  joint(bytes: Uint8Array, at: number, from: number, to: number, depth: number): void {
    const byte = bytes[at]!
    const into = this.#layers.into(depth)
    into.length = 0
    if (byte === 0x5b) {
      const next = bytes[at + 1]
      if (next === 0x22 || next === 0x27 || next === 0x28 || next === 0x5c || next === 0x20 || next === 10)
        joinParts(bytes, at, from, to, into)
    } else if (byte === 0x2b || byte === 0x7c) joinStrings(bytes, at, from, to, into)
    if (into.length >= SHORTEST_TEXT) this.#layers.whole('parts', into, depth, at)
  }

  /** Base85, in a word with signs that words of people do not have. Returns where the word ends. */
  word(bytes: Uint8Array, at: number, from: number, to: number, depth: number): number {
    if (bytes[at] === 0x3f && bytes[at - 1] === 0x3d) this.#encodedWords(bytes, at - 1, from, to, depth)
    let start = at
    const first = Math.max(from, at - FARTHEST_SIGN)
    while (start > first && IN_BASE85[bytes[start - 1]!] !== 0) start--
    let end = at + 1
    while (end < to && IN_BASE85[bytes[end]!] !== 0) end++
    if (end - start < SHORTEST_BASE85) return end
    this.base85(bytes, start, end, depth)
    for (let place = start, keys = 0; place < start + FARTHEST_SIGN && keys < 2; place++) {
      if (OPENS_VALUE[bytes[place]!] === 0) continue
      keys++
      this.base85(bytes, place + 1, end, depth)
    }
    return end
  }

  /** Base85 that fills a stretch. */
  base85(bytes: Uint8Array, from: number, to: number, depth: number): void {
    const into = this.#layers.into(depth)
    for (let kind = 0; kind < BASE85_KINDS && to - from >= SHORTEST_BASE85; kind++)
      if (decodeBase85(kind, bytes, from, to, into)) this.#layers.stretches('base85', into, depth, from)
  }

  /** Encoded words of a mail's head, from the first of them on. */
  #encodedWords(bytes: Uint8Array, at: number, from: number, to: number, depth: number): void {
    let before = at - 1
    while (before > from && before > at - 4 && INDENTS[bytes[before]!] === 1) before--
    while (before > from && before > at - 6 && (bytes[before] === NEWLINE || bytes[before] === 13)) before--
    if (bytes[before] === 0x3d && bytes[before - 1] === 0x3f) return
    const into = this.#layers.into(depth)
    decodeEncodedWords(bytes, at, to, into)
    if (into.length >= SHORTEST_TEXT) this.#layers.stretches('encoded words', into, depth, at)
  }

  /** Text that is stored from its end on, and shown in order by a mark before it. */
  reversed(bytes: Uint8Array, from: number, to: number, depth: number): void {
    let end = from
    while (end < to && end < from + SHARED && bytes[end] !== NEWLINE) end++
    const into = this.#layers.into(depth)
    reverse(bytes, from, end, into)
    this.#layers.whole('reversed', into, depth, from)
  }

  /** UTF-16 or UTF-32 around so many bytes that are the half of a character, as all of one script have the same. */
  wide(
    bytes: Uint8Array,
    firstHalf: number,
    lastHalf: number,
    from: number,
    to: number,
    halves: number,
    depth: number,
  ): void {
    if (halves < SHORTEST_TEXT - 1) return
    const [start, end] = [Math.max(from, firstHalf - 2), Math.min(to, lastHalf + 3)]
    const into = this.#layers.into(depth)
    for (const bigEndian of [false, true]) {
      for (const odd of [0, 1]) {
        decodeUtf16(bytes, start + odd, end, bigEndian, into)
        this.#layers.whole('utf-16', into, depth, firstHalf)
      }
    }
    // Three halves a character.
    if (3 * halves < 2 * (end - start)) return
    for (const bigEndian of [false, true]) {
      for (let shift = 0; shift < 4; shift++) {
        decodeUtf32(bytes, start + shift, end, bigEndian, into)
        this.#layers.whole('utf-32', into, depth, firstHalf)
      }
    }
  }
}

/** Digits of base85 but for quotes, which end it, although one kind has them. */
const IN_BASE85 = new Uint8Array(256)
for (let byte = 0x21; byte < 0x7f; byte++) IN_BASE85[byte] = 1
IN_BASE85[0x22] = IN_BASE85[0x27] = 0

/** `key=…`, `key:…`, `<~…~>` */
const OPENS_VALUE = new Uint8Array(256)
for (const sign of '=:~') OPENS_VALUE[sign.charCodeAt(0)] = 1
