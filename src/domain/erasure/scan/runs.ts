import { ASCII_WORD, BEYOND_HEX, CASE, NO_CASE, WIDEST_INDENT } from './bytes.ts'
import { BASE64, decodeBase64, decodeHex, HEX, quadIsText } from './decode.ts'
import { BASE32_KINDS, decodeBase32, decodeSemiOctets, SHORTEST_BASE32 } from './decode-rare.ts'
import { mayBeBare } from './decompress.ts'
import type { Layers } from './layers.ts'

const SHORTEST_RUN = 12
/** Base64 digits of a line after which it may go on in the next. */
const SHORTEST_WRAP = 20
const SHORTEST_HEX = 18

/** Runs of the digits of base64, in which there may be base64, base32 or hex. */
export class Runs {
  readonly #layers: Layers

  constructor(layers: Layers) {
    this.#layers = layers
  }

  read(bytes: Uint8Array, from: number, to: number, depth: number): void {
    // Every run of twelve holds a byte that is looked at here.
    let probe = from + SHORTEST_RUN - 1
    while (probe < to) {
      if (BASE64[bytes[probe]!] === 255) {
        probe += SHORTEST_RUN
        continue
      }
      let start = probe
      const first = probe - SHORTEST_RUN
      while (start > first && start > from && BASE64[bytes[start - 1]!] !== 255) start--
      let end = probe + 1
      while (end < to && BASE64[bytes[end]!] !== 255) end++
      // Lines of one run, as MIME breaks them, and as YAML indents them.
      const wrapsAfter = end
      for (let piece = start; end - piece >= SHORTEST_WRAP && end + 3 < to; ) {
        let next = end
        while (next < end + 3 && (bytes[next] === 10 || bytes[next] === 13)) next++
        if (next > end) while (next < end + WIDEST_INDENT && bytes[next] === 0x20) next++
        if (next === end || BASE64[bytes[next]!] === 255) break
        piece = next
        end = next + 1
        while (end < to && BASE64[bytes[end]!] !== 255) end++
      }
      if (end - start >= SHORTEST_RUN) this.#run(bytes, start, end, end > wrapsAfter, depth)
      probe = end + SHORTEST_RUN
    }
  }

  #run(bytes: Uint8Array, start: number, end: number, isWrapped: boolean, depth: number): void {
    const into = this.#layers.into(depth)
    let hex = 0
    let inHex = 0
    let first = start
    this.#base32(bytes, start, end, depth)
    for (let at = start; at <= end; at++) {
      if (at < end && HEX[bytes[at]!] !== 255) {
        if (hex++ === 0) first = at
        continue
      }
      if (at < end && hex > 0 && BASE64[bytes[at]!] === 255) continue
      if (hex >= SHORTEST_HEX) {
        decodeSemiOctets(bytes, first, at, into)
        if (into.length > 0) this.#layers.whole('semi-octets', into, depth, start)
        for (const odd of [0, 1]) {
          decodeHex(bytes, first + odd, at, into)
          this.#layers.stretchesOrFile('hex', into, depth, start)
        }
      }
      if (hex >= 4) inHex += at < end && ASCII_WORD[bytes[at]!] !== 0 ? hex : hex + 1
      hex = 0
    }
    // Identifiers of systems are all hex and dashes: no text looks like that in base64.
    if (inHex > end - start) return
    for (let shift = 0; shift < 4; shift++) {
      if (!isWrapped && !looksEncoded(bytes, start + shift, end, shift === 0)) continue
      decodeBase64(bytes, start + shift, end, into)
      this.#layers.stretchesOrFile('base64', into, depth, start)
    }
  }

  /** Runs of one case that have the length of nine bytes in base32, and are more than hex. */
  #base32(bytes: Uint8Array, start: number, end: number, depth: number): void {
    if (end - start < SHORTEST_BASE32) return
    const into = this.#layers.into(depth)
    // Every such run holds a digit that is looked at here.
    for (let probe = start + SHORTEST_BASE32 - 1; probe < end; probe += SHORTEST_BASE32) {
      let cases = 0
      let from = probe
      for (; from >= start && isOfCase(cases, bytes[from]!); from--) cases |= CASE[bytes[from]!]!
      let to = probe + 1
      for (; to < end && isOfCase(cases, bytes[to]!); to++) cases |= CASE[bytes[to]!]!
      probe = to - 1
      if (to - from <= SHORTEST_BASE32 || (cases & BEYOND_HEX) === 0) continue
      for (let kind = 0; kind < BASE32_KINDS; kind++)
        if (decodeBase32(kind, bytes, from + 1, to, into))
          this.#layers.stretches('base32', into, depth, start)
    }
  }
}

/** Whether two quads of text follow each other, or something compressed begins. */
function looksEncoded(bytes: Uint8Array, from: number, to: number, isBegin: boolean): boolean {
  const begins = quadAt(bytes, from)
  if (begins === 0x1f8b08 || begins === 0x504b03 || (begins >> 16 === 0x78 && (begins >> 8) % 31 === 0))
    return true
  if (isBegin && mayBeBare(begins >> 16)) return true
  // One of every two neighbours is looked at.
  for (let at = from + 4; at + 4 <= to; at += 8) {
    if (isTextAt(bytes, at) && (isTextAt(bytes, at - 4) || (at + 8 <= to && isTextAt(bytes, at + 4))))
      return true
  }
  return false
}

const quadAt = (bytes: Uint8Array, at: number): number =>
  (BASE64[bytes[at]!]! << 18) |
  (BASE64[bytes[at + 1]!]! << 12) |
  (BASE64[bytes[at + 2]!]! << 6) |
  BASE64[bytes[at + 3]!]!

const isTextAt = (bytes: Uint8Array, at: number): boolean => quadIsText(quadAt(bytes, at))

const isOfCase = (cases: number, byte: number): boolean =>
  CASE[byte]! !== NO_CASE && ((cases | CASE[byte]!) & 3) !== 3
