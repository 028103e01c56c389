import { LONGEST } from '../identifier.ts'
import {
  CASE,
  IN_ADDRESS,
  INDENTS,
  isFigure,
  NEWLINE,
  NO_CASE,
  SHORTEST_TEXT,
  WIDEST_INDENT,
} from './bytes.ts'
import { HEX, undoEscapes, undoMojibake } from './decode.ts'
import { decodeDump, decodeUu, isDumpLine, isUuLine, undoCodePoints } from './decode-rare.ts'
import { joinHalves, undoTags } from './join.ts'
import type { Layers } from './layers.ts'

/** What is undone in a whole line: escapes, tags, its break; and lines that are one file. */
export class Lines {
  readonly #layers: Layers
  readonly #hasAddresses: boolean

  /** @param hasAddresses Whether an address is put together again as well as a number where a line broke it. */
  constructor(layers: Layers, hasAddresses: boolean) {
    this.#layers = layers
    this.#hasAddresses = hasAddresses
  }

  /** A line in which so many escapes of each kind were met. */
  escaped(
    bytes: Uint8Array,
    from: number,
    to: number,
    depth: number,
    escapes: number,
    quoted: number,
    mojibake: number,
  ): void {
    const into = this.#layers.into(depth)
    if (escapes > 0 && undoEscapes(bytes, from, to, false, into)) {
      this.#layers.whole('escapes', into, depth, from)
    }
    if (quoted > 0 && undoEscapes(bytes, from, to, true, into)) {
      this.#layers.whole('quoted-printable', into, depth, from)
    }
    if (escapes >= SHORTEST_TEXT && undoCodePoints(bytes, from, to, into)) {
      this.#layers.whole('escapes', into, depth, from)
    }
    if (mojibake > 0) {
      undoMojibake(bytes, from, to, into)
      this.#layers.whole('mojibake', into, depth, from)
    }
  }

  /** The text around tags of HTML or XML, without them: a number may go on behind one. */
  tagged(bytes: Uint8Array, first: number, last: number, from: number, to: number, depth: number): void {
    const into = this.#layers.into(depth)
    undoTags(bytes, Math.max(from, first - LONGEST), Math.min(to, last + LONGEST), into)
    this.#layers.whole('tags', into, depth, first)
  }

  /** A number or an address that goes on in the next line, behind what quotes or indents it. `at` is where the line ends. */
  broken(bytes: Uint8Array, at: number, line: number, to: number, depth: number): void {
    let end = at
    while (end > line && end > at - 4 && ENDS_LINE[bytes[end - 1]!] === 1) end--
    if (IN_ADDRESS[bytes[end - 1]!] === 0 && bytes[end - 1] !== AT) return
    let next = at + 1
    while (next < to && next < at + WIDEST_INDENT && INDENTS[bytes[next]!] === 1) next++
    if (next >= to) return
    const isNumber = mayBeDigit(bytes[end - 1]!) && (isFigure(bytes[next]) || bytes[next]! >= 0xc2)
    if (!isNumber && !(this.#hasAddresses && this.#isAddressed(bytes, end, line, next, to))) return
    const start = Math.max(line, end - LONGEST)
    const past = Math.min(to, next + LONGEST)
    let stop = next
    while (stop < past && bytes[stop] !== NEWLINE) stop++
    // A column of figures goes on in every line.
    if (isNumber && !hasWords(bytes, start, end) && !hasWords(bytes, next, stop)) return
    const into = this.#layers.into(depth)
    joinHalves(bytes, start, end, next, stop, isNumber, into)
    this.#layers.whole('line break', into, depth, start)
  }

  /** Whether an address may go on from `end` to `next`: on one side of the break its @ stands in the same word. */
  #isAddressed(bytes: Uint8Array, end: number, line: number, next: number, to: number): boolean {
    const first = Math.max(line, end - LONGEST)
    let at = end - 1
    while (at > first && IN_ADDRESS[bytes[at]!] !== 0) at--
    if (bytes[at] === AT) return true
    const last = Math.min(to, next + LONGEST)
    for (at = next; at < last && IN_ADDRESS[bytes[at]!] !== 0; ) at++
    return bytes[at] === AT
  }

  /** Lines that are one file: uuencoded, after the one that ends at `at`, or dumped in hex, from `line` on. Returns where they end. */
  block(bytes: Uint8Array, line: number, at: number, to: number, depth: number): number {
    const into = this.#layers.into(depth)
    if (isUuLine(bytes, at + 1, to)) {
      const end = decodeUu(bytes, at + 1, to, into)
      this.#layers.stretches('uuencode', into, depth, at)
      return end
    }
    if (!isDumpLine(bytes, line, at)) return at
    const end = decodeDump(bytes, line, to, into)
    this.#layers.stretches('hex', into, depth, line)
    return end
  }
}

/** Spaces, what continues a line of a shell, and what quotes one of a mail. */
const ENDS_LINE = new Uint8Array(256)
for (const sign of ' \r\t\\-') ENDS_LINE[sign.charCodeAt(0)] = 1

/** Letters, or the sign before the code of a country. */
function hasWords(bytes: Uint8Array, from: number, to: number): boolean {
  for (let at = from; at < to; at++) {
    if (bytes[at] === 0x2b || (CASE[bytes[at]!]! !== NO_CASE && CASE[bytes[at]!]! !== 0)) return true
  }
  return false
}

const AT = 0x40
const mayBeDigit = (byte: number): boolean => isFigure(byte) || byte >= 0x80

/** Whether `%`, a backslash, `&`, `=` or ESC begins an escape. */
export function isEscape(bytes: Uint8Array, at: number, to: number): boolean {
  const next = bytes[at + 1]!
  switch (bytes[at]) {
    case 0x25:
      return at + 2 < to && (isHexPair(bytes, at + 1) || (next | 0x20) === 0x75)
    case 0x5c:
      return BACKSLASHED[next] === 1
    case 0x1b:
      return next === 0x5b
    case 0x26:
      return (
        next === 0x23 ||
        ((next | 0x20) >= 0x61 && (next | 0x20) <= 0x7a && bytes.subarray(at, at + 9).includes(0x3b))
      )
    default:
      // A soft line break, escaped itself.
      return next === 0x5c && (bytes[at + 2] === 0x6e || bytes[at + 2] === 0x72)
  }
}

/** One `=30` is a field's value; two in a row are quoted-printable, and so is `=40` within a word. */
export const isQuoted = (bytes: Uint8Array, at: number): boolean =>
  bytes[at] === 0x3d &&
  ((bytes[at + 3] === 0x3d && isHexPair(bytes, at + 1) && isHexPair(bytes, at + 4)) ||
    // The one sign of an address that headers may not have.
    (bytes[at + 1] === 0x34 && bytes[at + 2] === 0x30 && CASE[bytes[at + 3]!]! !== NO_CASE))

const isHexPair = (bytes: Uint8Array, at: number): boolean =>
  HEX[bytes[at]!] !== 255 && HEX[bytes[at + 1]!] !== 255

/** What a backslash makes something else of. */
const BACKSLASHED = new Uint8Array(256)
for (const sign of "uxU/\\nrt01234567'") BACKSLASHED[sign.charCodeAt(0)] = 1
