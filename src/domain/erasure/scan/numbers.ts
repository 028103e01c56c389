import { type Characters, characters, DIGIT, foldOf, IGNORED, kindOf, SEPARATOR } from '../characters.ts'
import { SHORTEST_TAIL } from '../fingerprint.ts'
import { LONGEST_NUMBER, NUMBER_DIGITS } from '../identifier.ts'
import { codePointAt, isFigure, SHORTEST_TEXT, sizeOf } from './bytes.ts'
import { HEX } from './decode.ts'
import { fieldBefore } from './field-name.ts'
import { type Findings, readingsOf } from './findings.ts'
import type { Lists } from './lists.ts'
import { NumberFields } from './number-fields.ts'
import { isMeant } from './number-meant.ts'
import type { Words } from './words.ts'

/** The number under way: its digits, and of each group its first digit and where it begins and ends. */
export interface Groups {
  digits: Uint8Array
  first: Int32Array
  at: Int32Array
  end: Int32Array
}

/** Numbers of any script and across separators: which of their groups are an identifier. */
export class Numbers {
  readonly #table = characters()
  readonly #findings: Findings
  readonly #words: Words
  readonly #lists: Lists
  readonly #fields: NumberFields
  readonly #groups: Groups = {
    digits: new Uint8Array(1024),
    first: new Int32Array(256),
    at: new Int32Array(256),
    end: new Int32Array(256),
  }
  /** 1 at how many digits a word that is looked for ends with. */
  readonly #tailLengths = new Uint8Array(NUMBER_DIGITS + 1)
  readonly #hasTails: boolean
  readonly #hasLabelled: boolean

  constructor(findings: Findings, words: Words, lists: Lists) {
    this.#findings = findings
    this.#words = words
    this.#lists = lists
    this.#fields = new NumberFields(findings)
    for (const { tail } of findings.sought) if (tail > 0) this.#tailLengths[tail] = 1
    this.#hasTails = this.#tailLengths.includes(1)
    this.#hasLabelled = findings.sought.some(({ form }) => form === 'labelled')
  }

  /** Forgets the fields of the text that was passed over at this depth. */
  begin(depth: number): void {
    this.#fields.begin(depth)
  }

  /** A number from its first digit; returns where it ends. */
  read(bytes: Uint8Array, start: number, from: number, to: number, depth: number): number {
    // Most numbers are short, of ASCII digits, and in no field that we know: those are only counted.
    let count = 0
    let gap = 0
    let end = start
    let plain = true
    for (let at = start; at < to; at++) {
      const byte = bytes[at]!
      if (byte >= 0x30 && byte <= 0x39) {
        count++
        gap = 0
        end = at + 1
      } else if (byte < 0x80) {
        if (SEPARATES[byte] === 0 || ++gap > WIDEST_GAP) break
      } else {
        plain = byte < 0xc2
        break
      }
    }
    if (count === 1 && bytes[start] === 0x30) {
      const opens = bytes[start - 2] === 0x5c ? bytes[start - 3] : bytes[start - 2]
      if (bytes[start - 1] === 0x22 && opens === 0x7b) this.#lists.indexed(bytes, start, to, depth)
      else if (MARKS[bytes[start + 1]!] === 1) {
        if (bytes[start + 1] === 0x78) this.#hexNumber(bytes, start + 2, to, depth)
        this.#lists.marked(bytes, start, from, to, depth)
      }
    }
    const meaning = fieldBefore(bytes, start, from)
    if (
      !plain ||
      count >= NUMBER_DIGITS ||
      meaning !== 0 ||
      this.#fields.isNear(depth, start) ||
      this.#hasLabelled ||
      (this.#hasTails && count >= SHORTEST_TAIL)
    ) {
      end = this.#readGroups(bytes, start, from, to, depth, meaning)
    }
    return end
  }

  /** A number with all its groups. */
  #readGroups(
    bytes: Uint8Array,
    start: number,
    from: number,
    to: number,
    depth: number,
    meaning: number,
  ): number {
    const { digits, first: groupFirst, at: groupAt, end: groupEnd } = this.#groups
    let count = 0
    let groups = 0
    let tail = 0
    let at = start
    let end = start
    while (true) {
      groupFirst[groups] = count
      groupAt[groups] = at
      while (at < to) {
        const byte = bytes[at]!
        let digit = byte - 0x30
        let size = 1
        if (byte >= 0xc2) {
          const codePoint = codePointAt(bytes, at, to)
          const kind = kindOf(this.#table, codePoint)
          if (kind === IGNORED) {
            at += sizeOf(codePoint)
            continue
          }
          if (kind !== DIGIT) break
          digit = foldOf(this.#table, codePoint)
          size = sizeOf(codePoint)
        } else if (digit < 0 || digit > 9) break
        at += size
        end = at
        digits[count++] = digit
        tail = (tail % 100_000_000) * 10 + digit
        // Of a number longer than any identifier only the length matters.
        if (count === digits.length) count--
      }
      groupEnd[groups] = end
      groups++
      if (count >= NUMBER_DIGITS) {
        const found = this.#findings.numberFound(NUMBER_DIGITS, tail)
        if (found >= 0) {
          this.#prove(bytes, found, count, groups, from, to, depth)
          this.#words.endingWith(bytes, found, end, from, to, depth)
        }
      }
      if (this.#hasTails) this.#tails(bytes, count, groups, end, from, to, depth)
      const next = skipSeparators(this.#table, bytes, end, to)
      if (next === end || next >= to || !isDigit(this.#table, bytes, next, to)) break
      at = next
      if (groups < groupAt.length - 1 && count < digits.length / 2) continue
      // A long table of figures: an identifier lies within the last few groups.
      const first = Math.max(0, groups - LONGEST_NUMBER)
      const dropped = groupFirst[first]!
      digits.copyWithin(0, dropped, count)
      count -= dropped
      groups -= first
      for (let group = 0; group < groups; group++) {
        groupFirst[group] = groupFirst[group + first]! - dropped
        groupAt[group] = groupAt[group + first]!
        groupEnd[group] = groupEnd[group + first]!
      }
    }
    if (count <= LONGEST_NUMBER)
      this.#fields.read(bytes, start, end, this.#groups, count, groups, from, depth, meaning)
    if (groups >= SHORTEST_TEXT || count >= 3 * SHORTEST_TEXT) {
      // A copy: what the list decodes to is swept as well, and numbers in it are read into these digits.
      this.#lists.figures(bytes, start, to, digits.slice(0, count), depth)
    }
    return end
  }

  /** A whole phone number with its country's code as one number in hex; shorter ones would be anything. */
  #hexNumber(bytes: Uint8Array, at: number, to: number, depth: number): void {
    let value = 0
    let end = at
    while (end < to && end < at + 13 && HEX[bytes[end]!] !== 255) value = value * 16 + HEX[bytes[end++]!]!
    if (end - at < 9 || end - at > 12 || this.#findings.isAnybodys) return
    const reading = { form: 'international', value: String(value) } as const
    this.#findings.noteNumber(NUMBER_DIGITS, value % 10 ** NUMBER_DIGITS, [reading], depth, at)
  }

  /** Words that end with these figures: by the last group, or the last few together. */
  #tails(
    bytes: Uint8Array,
    count: number,
    groups: number,
    end: number,
    from: number,
    to: number,
    depth: number,
  ): void {
    const { digits, first: groupFirst } = this.#groups
    for (let first = groups - 1; first >= 0; first--) {
      const length = count - groupFirst[first]!
      if (length >= NUMBER_DIGITS) return
      if (this.#tailLengths[length] === 0) continue
      let value = 0
      for (let at = groupFirst[first]!; at < count; at++) value = value * 10 + digits[at]!
      const found = this.#findings.tailFound(length, value)
      if (found >= 0) this.#words.endingWith(bytes, found, end, from, to, depth)
    }
  }

  /** A number whose last nine digits are somebody's: which of its groups are an identifier, and are they meant as one? */
  #prove(
    bytes: Uint8Array,
    found: number,
    count: number,
    groups: number,
    from: number,
    to: number,
    depth: number,
  ): void {
    const { digits, first: groupFirst, at: groupAt } = this.#groups
    const { isAnybodys } = this.#findings
    const last = groups - 1
    for (let first = last; first >= 0; first--) {
      const length = count - groupFirst[first]!
      if (length > LONGEST_NUMBER) return
      if (length < NUMBER_DIGITS) continue
      const written = digits.subarray(groupFirst[first]!, count).join('')
      for (const canonical of readingsOf(written)) {
        const index = this.#findings.proved(found, canonical)
        const { form } = canonical
        if (index < 0 || !isMeant(bytes, this.#groups, first, last, written, form, isAnybodys, from, to))
          continue
        this.#findings.note(index, depth, groupAt[first]!)
        return
      }
    }
  }
}

function skipSeparators(table: Characters, bytes: Uint8Array, from: number, to: number): number {
  let at = from
  for (let gap = 0; at < to && gap <= WIDEST_GAP; ) {
    const byte = bytes[at]!
    if (byte < 0x80) {
      if (SEPARATES[byte] === 0) return gap > 0 ? at : from
      at++
      gap++
      continue
    }
    const codePoint = codePointAt(bytes, at, to)
    const kind = kindOf(table, codePoint)
    if (kind === SEPARATOR) gap++
    else if (kind !== IGNORED) return gap > 0 ? at : from
    at += sizeOf(codePoint)
  }
  return from
}

const isDigit = (table: Characters, bytes: Uint8Array, at: number, to: number): boolean =>
  isFigure(bytes[at]) || (bytes[at]! >= 0xc2 && kindOf(table, codePointAt(bytes, at, to)) === DIGIT)

/** Characters between two groups of a number: `) - (`. */
const WIDEST_GAP = 5
const SEPARATES = new Uint8Array(128)
for (const sign of ' -./()_+~*,;|^\t\'"') SEPARATES[sign.charCodeAt(0)] = 1
// Controls that part fields, or do nothing where they are shown; but for those that other encodings begin with.
for (const byte of [2, 3, 4, 5, 7, 8, 11, 12, 0x7f]) SEPARATES[byte] = 1
for (let byte = 14; byte < 32; byte++) if (byte !== 0x1b) SEPARATES[byte] = 1

/** What says which figures follow a nought. */
const MARKS = new Uint8Array(256)
for (const sign of 'xXbBoO') MARKS[sign.charCodeAt(0)] = 1
