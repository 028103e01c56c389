import { characters, DIGIT, foldOf, IGNORED, kindOf, LETTER } from '../characters.ts'
import { LONGEST } from '../identifier.ts'
import { ASCII_WORD, BEYOND_ASCII, COLON, codePointAt, FARTHEST_FIELD, sizeOf } from './bytes.ts'
import type { Findings } from './findings.ts'

/** Names, and record numbers with letters. */
export class Words {
  /** Some that only a pass over all words finds: names, and words of few digits. */
  readonly areSought: boolean
  readonly #table = characters()
  readonly #findings: Findings
  readonly #hasNames: boolean
  /** 1 at the shapes of those that are looked for, which spares hashing all others: see `shapeOf`. */
  readonly #shapes = new Uint8Array(1 << 16)
  /** The letters of the words under way, folded, without what parts them. */
  readonly #units = new Uint16Array(8192)
  readonly #begins = new Int32Array(4)
  readonly #places = new Int32Array(4)
  readonly #figures = new Int32Array(4)
  readonly #partsOfNames: { letters: Uint16Array; at: number }[] = []

  constructor(findings: Findings) {
    this.#findings = findings
    this.#hasNames = findings.sought.some(({ form }) => form === 'name')
    this.areSought = this.#hasNames || findings.sought.some(({ form, tail }) => form === 'word' && tail === 0)
    for (const { form, length, digits } of findings.sought)
      if (form === 'word' || form === 'name') this.#shapes[shapeOf(length, digits)] = 1
  }

  /** Up to four words that follow each other. */
  read(bytes: Uint8Array, from: number, to: number, depth: number): void {
    const units = this.#units
    const shapes = this.#shapes
    const names = this.#hasNames
    // Of the last four words, by number: where they begin in `units` and in `bytes`, and the figures before them.
    const begins = this.#begins
    const places = this.#places
    const before = this.#figures
    this.#partsOfNames.length = 0
    // Where the name of a field ended just now.
    let label = 0
    let word = 0
    let oldest = 0
    let length = 0
    let figures = 0
    let at = from
    let past = from
    while (at < to) {
      if (ASCII_WORD[bytes[at]!] === 0) {
        at++
        continue
      }
      const start = at
      const begin = length
      const figuresBefore = figures
      while (at < to && length - begin <= LONGEST) {
        let unit = ASCII_WORD[bytes[at]!]!
        if (unit === 0) break
        let size = 1
        if (unit === BEYOND_ASCII) {
          const codePoint = codePointAt(bytes, at, to)
          const kind = kindOf(this.#table, codePoint)
          size = sizeOf(codePoint)
          if (kind === IGNORED) {
            at += size
            continue
          }
          if (kind === DIGIT) unit = 0x30 + foldOf(this.#table, codePoint)
          else if (kind === LETTER) unit = foldOf(this.#table, codePoint)
          else break
        }
        at += size
        units[length++] = unit
        if (unit < 0x3a) figures++
      }
      if (length === begin || length - begin > LONGEST) {
        if (at === start) at += sizeOf(codePointAt(bytes, at, to))
        length = begin
        figures = figuresBefore
        continue
      }
      // `last_name` between two names says what they are, and parts them no more than a space does.
      if (names && figures === figuresBefore && STOP_WORDS.has(hashOf(units, begin, length))) {
        length = begin
        if (start - past <= FARTHEST_WORD) past = at
        label = at
        continue
      }
      if (label > 0 && names) {
        if (figures === figuresBefore && start - label <= FARTHEST_WORD && opensValue(bytes, label, start))
          this.#partOfName(units.slice(begin, length), depth, start)
        label = 0
      }
      if (start - past > FARTHEST_WORD) oldest = word
      past = at
      const slot = word & 3
      begins[slot] = begin
      places[slot] = start
      before[slot] = figuresBefore
      for (let first = word; first >= oldest && first > word - 4; first--) {
        const start = begins[first & 3]!
        const digits = figures - before[first & 3]!
        if ((names || digits > 0) && shapes[shapeOf(length - start, digits)] === 1)
          this.#window(start, length, digits, depth, places[first & 3]!)
      }
      word++
      if (length > units.length - 3 * LONGEST) {
        oldest = Math.max(oldest, word - 3)
        const kept = begins[oldest & 3]!
        units.copyWithin(0, kept, length)
        for (let one = oldest; one < word; one++) begins[one & 3]! -= kept
        length -= kept
      }
    }
  }

  /** The value of a field like `first_name`: does it make a name with another one's of the same record? */
  #partOfName(letters: Uint16Array, depth: number, at: number): void {
    const parts = this.#partsOfNames
    while (parts.length > 0 && (parts.length > 3 || at - parts[0]!.at > FARTHEST_FIELD)) parts.shift()
    const units = this.#units
    const from = units.length - LONGEST
    for (const other of parts) {
      const length = other.letters.length + letters.length
      if (length > LONGEST || this.#shapes[shapeOf(length, 0)] === 0) continue
      for (const [first, last] of [
        [other.letters, letters],
        [letters, other.letters],
      ] as const) {
        units.set(first, from)
        units.set(last, from + first.length)
        this.#window(from, from + length, 0, depth, at)
      }
    }
    parts.push({ letters, at })
  }

  /** Some words that follow each other: are they a name, or a number with letters? */
  #window(from: number, to: number, figures: number, depth: number, at: number): void {
    this.#findings.noteUnits(figures === 0 ? 'name' : 'word', this.#units, from, to, depth, at)
  }

  /** Looks at the last words before `end` when what was found by its last digits may be a word. */
  endingWith(bytes: Uint8Array, found: number, end: number, from: number, to: number, depth: number): void {
    if (!this.#findings.mayBeWord(found) || (end < to && bytes[end]! < 0x80 && ASCII_WORD[bytes[end]!] !== 0))
      return
    let start = end
    for (let word = 0; word < 4; word++) {
      let at = start
      for (let gap = 0; gap < FARTHEST_WORD && at > from && ASCII_WORD[bytes[at - 1]!] === 0; gap++) at--
      const past = at
      while (at > from && past - at < LONGEST && ASCII_WORD[bytes[at - 1]!] !== 0) at--
      if (at === past) break
      start = at
    }
    this.read(bytes, start, end, depth)
  }
}

/** Whether what stands between a field's name and `to` says that its value begins there. */
function opensValue(bytes: Uint8Array, from: number, to: number): boolean {
  for (let at = from; at < to; at++)
    if (bytes[at] === COLON || bytes[at] === 0x3d || bytes[at] === 0x3e) return true
  return false
}

/** Bytes between two words of one name, with the name of a field. */
const FARTHEST_WORD = 8

// FNV-1a.
const EMPTY_HASH = 0x811c9dc5 | 0
const HASH_PRIME = 0x01000193
/** A place for what has so many characters, and so many digits among them. */
const shapeOf = (length: number, digits: number): number => ((length << 7) | digits) & 0xffff

function hashOf(units: ArrayLike<number>, from: number, to: number): number {
  let hash = EMPTY_HASH
  for (let at = from; at < to; at++) hash = Math.imul(hash ^ units[at]!, HASH_PRIME)
  return hash
}

/** Hashes of words in fields' names that stand between two parts of a name. */
const STOP_WORDS = new Set(
  `first last given family middle sur surname name names firstname lastname givenname familyname father fname lname forename
    patient patientfirstname patientlastname value val key field content string نام تخلص ولد`
    .split(/\s+/)
    .map((word) =>
      hashOf(
        [...word].map((sign) => sign.charCodeAt(0)),
        0,
        word.length,
      ),
    ),
)
