import { SHORTEST_TEXT } from './bytes.ts'
import { decodeList, HEX } from './decode.ts'
import {
  beginsAsText,
  decodeFigures,
  decodeHexWords,
  decodeIndexed,
  decodeMarked,
  goesOn,
} from './decode-rare.ts'
import type { Layers } from './layers.ts'

/** Bytes from one sign between two pairs of a list to the next. */
const SHORTEST_PAIR = 3
const LONGEST_PAIR = 9
/** From one sign to the next: `30373030 `. */
const WORD = 9
/** `0x30373030` */
const MARKED_WORD = 10
const LONGEST_BYTE = 4
const PROBE_LISTS = 16

/** Lists of bytes: in hex, decimal, octal or binary. */
export class Lists {
  readonly #layers: Layers

  constructor(layers: Layers) {
    this.#layers = layers
  }

  /** Hex digits in a list: `DB B0 DB B7`, `30:37`, `0x30, 0x37`, `U+06F0 U+06F7`. */
  read(bytes: Uint8Array, from: number, to: number, depth: number): void {
    const into = this.#layers.into(depth)
    // Every list of nine pairs holds three signs at one distance from a place that is looked at here.
    for (let probe = from; probe + 3 * SHORTEST_PAIR < to; probe += PROBE_LISTS) {
      for (let at = probe; at < probe + LONGEST_PAIR; at++) {
        const joint = bytes[at]!
        if (PAIR_JOINT[joint] === 0 || HEX[bytes[at - 1]!] === 255) continue
        if ((IN_PAIR[bytes[at + 1]!]! | PAIR_JOINT[bytes[at + 1]!]!) === 0) break
        let period = SHORTEST_PAIR
        while (period <= LONGEST_PAIR && !(bytes[at + period] === joint && bytes[at + 2 * period] === joint))
          period++
        if (period > LONGEST_PAIR) {
          // Of ten or twelve bytes there are three words, and two signs between them; either may be met first.
          const sign = bytes[at + WORD] === joint ? at : bytes[at - WORD] === joint ? at - WORD : 0
          if (sign > from && HEX[bytes[sign - 8]!] !== 255 && HEX[bytes[sign + WORD - 1]!] !== 255)
            probe = Math.max(probe, this.#threeWords(bytes, sign, from, to, depth) - PROBE_LISTS)
          break
        }
        if (HEX[bytes[at + period - 1]!] === 255) break
        let first = at
        while (
          first - period > from &&
          bytes[first - period] === joint &&
          HEX[bytes[first - period - 1]!] !== 255
        )
          first -= period
        let start = first
        while (start > from && start > first - LONGEST_PAIR && IN_PAIR[bytes[start - 1]!] === 1) start--
        for (const begin of start === first + 1 ? [start] : [start, first + 1]) {
          const past = decodeList(bytes, begin, to, true, into)
          if (past > begin) this.#layers.stretches('hex', into, depth, begin)
          const end = period > LONGEST_BYTE ? decodeHexWords(bytes, begin, to, into) : begin
          if (end > begin && beginsAsText(into)) this.#layers.stretches('hex', into, depth, begin)
          probe = Math.max(probe, past - PROBE_LISTS, end - PROBE_LISTS)
          if (past > begin) break
        }
        break
      }
    }
  }

  /** `30373030 31323334 3536`, whose first sign is at `at`; returns where they end, or 0. */
  #threeWords(bytes: Uint8Array, at: number, from: number, to: number, depth: number): number {
    const start = at + 1 - WORD
    const into = this.#layers.into(depth)
    const end = start < from ? 0 : decodeHexWords(bytes, start, to, into)
    if (end <= at + WORD || !beginsAsText(into)) return 0
    this.#layers.stretches('hex', into, depth, start)
    return end
  }

  /** `{"0":48,"1":55,…}` */
  indexed(bytes: Uint8Array, at: number, to: number, depth: number): void {
    const into = this.#layers.into(depth)
    decodeIndexed(bytes, at, to, into)
    if (into.length >= SHORTEST_TEXT) this.#layers.stretchesOrFile('list of bytes', into, depth, at)
  }

  /** `0x30373030 0x31323334`, `0b00110000, …` and `0o60, …`, from the first of them on. */
  marked(bytes: Uint8Array, at: number, from: number, to: number, depth: number): void {
    if (goesOn(bytes, at, from)) return
    const into = this.#layers.into(depth)
    const end =
      (bytes[at + 1]! | 0x20) === 0x78
        ? decodeHexWords(bytes, at, to, into)
        : decodeMarked(bytes, at, to, into)
    if (end > at + MARKED_WORD && beginsAsText(into)) this.#layers.stretches('hex', into, depth, at)
  }

  /** A number of many groups, or of many figures without any: these are `digits`, and `at` is where it begins. */
  figures(bytes: Uint8Array, at: number, to: number, digits: Uint8Array, depth: number): void {
    const into = this.#layers.into(depth)
    if (decodeList(bytes, at, to, false, into) > at)
      this.#layers.stretchesOrFile('list of bytes', into, depth, at)
    decodeFigures(
      digits,
      digits.length,
      (decoded) => this.#layers.stretches('figures', decoded, depth, at),
      into,
    )
  }
}

/** What parts two pairs of hex digits, and what they are written with. */
const PAIR_JOINT = new Uint8Array(256)
const IN_PAIR = new Uint8Array(256)
for (const sign of '0123456789abcdefABCDEFxXuU+') IN_PAIR[sign.charCodeAt(0)] = 1
for (const sign of ' :-,;|./_%$\n') PAIR_JOINT[sign.charCodeAt(0)] = 1
