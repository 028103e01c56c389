import {
  type FingerprintKey,
  proofOf,
  readFingerprint,
  SHORTEST_TAIL,
  tagNumber,
  tagTail,
  tagUnits,
} from '../fingerprint.ts'
import { type Canonical, type Form, NUMBER_DIGITS, phoneReadings } from '../identifier.ts'
import type { Hit, Wanted } from '../scanner.ts'
import type { Layers } from './layers.ts'
import { TagTable } from './tag-table.ts'

/** An identifier that is looked for, with what its fingerprint says of its form. */
export interface Sought {
  subject: string
  kind: string
  form: Form
  /** In characters. */
  length: number
  /** Digits among them. */
  digits: number
  /** Digits that a word is found by; 0 when it is not found by these. */
  tail: number
  proof: Buffer
}

/** Who is looked for: tells whether what was read is one of them, and notes it, each once a line. */
export class Findings {
  readonly sought: readonly Sought[]
  /** Nobody in particular is looked for: whatever has the form of an identifier is one. */
  readonly isAnybodys: boolean
  readonly #key: FingerprintKey | undefined
  readonly #tags: TagTable
  readonly #layers: Layers
  #hits: Hit[] = []
  readonly #seen = new Set<string>()

  /** @param key Left out, anybody's identifiers are found by `PATTERNS`. */
  constructor(layers: Layers, key: FingerprintKey | undefined, wanted: readonly Wanted[]) {
    this.#layers = layers
    this.#key = key
    this.isAnybodys = key === undefined
    this.#tags = new TagTable(this.isAnybodys ? PATTERNS.length : wanted.length)
    if (this.isAnybodys) {
      this.sought = PATTERNS.map(({ kind, form }) => {
        return { subject: '', kind, form, length: 0, digits: 0, tail: 0, proof: Buffer.from(kind) }
      })
      return
    }
    this.sought = wanted.map(({ subject, kind, fingerprint }, index) => {
      const { low, high, ...read } = readFingerprint(fingerprint)
      this.#tags.add(low, high, index)
      return { subject, kind, ...read }
    })
  }

  /** Begins the list that hits are added to from now on. */
  collect(): Hit[] {
    this.#hits = []
    return this.#hits
  }

  /** Identifiers and lines that were met, which are not noted again until they are forgotten. */
  get seen(): number {
    return this.#seen.size
  }

  forget(): void {
    this.#seen.clear()
  }

  /** The first index whose number has these last digits, or -1. */
  numberFound(digits: number, value: number): number {
    const key = this.#key
    if (key === undefined) return 0
    tagNumber(key.sip, digits, value)
    return this.#tags.find(key.sip.low, key.sip.high)
  }

  /** The first index whose word ends with these digits, or -1. */
  tailFound(digits: number, value: number): number {
    const key = this.#key
    if (key === undefined) return -1
    tagTail(key.sip, digits, value)
    return this.#tags.find(key.sip.low, key.sip.high)
  }

  /** Whether one of those that were found by their last digits is a word. */
  mayBeWord(found: number): boolean {
    let index = found
    while (index >= 0 && this.sought[index]!.form !== 'word') index = this.#tags.next(index)
    return index >= 0
  }

  /** Notes a number with these last digits when it is looked for, as the first of these readings that is; says whether one is. */
  noteNumber(
    digits: number,
    value: number,
    readings: Iterable<Canonical>,
    depth: number,
    at: number,
  ): boolean {
    const found = this.numberFound(digits, value)
    if (found < 0) return false
    for (const reading of readings) {
      const index = this.proved(found, reading)
      if (index < 0) continue
      this.note(index, depth, at)
      return true
    }
    return false
  }

  /** The index of this very identifier, among those that begin with `found`; -1 when it is none of them. */
  proved(found: number, canonical: Canonical): number {
    if (this.#key === undefined) {
      return PATTERNS.findIndex(
        ({ form, pattern }) => form === canonical.form && pattern.test(canonical.value),
      )
    }
    const proof = proofOf(this.#key, canonical)
    for (let index = found; index >= 0; index = this.#tags.next(index)) {
      const one = this.sought[index]!
      if (one.form === canonical.form && proof.equals(one.proof)) return index
    }
    return -1
  }

  /** Notes an address, a name or a word in UTF-16 code units when it is looked for. `at` is where it lies, at this depth. */
  noteUnits(form: Form, units: Uint16Array, from: number, to: number, depth: number, at: number): void {
    const key = this.#key
    if (key) {
      let tail = to
      while (form === 'word' && tail > from && units[tail - 1]! < 0x3a) tail--
      const digits = Math.min(to - tail, NUMBER_DIGITS)
      if (digits < SHORTEST_TAIL) tagUnits(key.sip, form, units, from, to)
      else {
        let value = 0
        for (let at = to - digits; at < to; at++) value = value * 10 + units[at]! - 0x30
        tagTail(key.sip, digits, value)
      }
    }
    const found = key ? this.#tags.find(key.sip.low, key.sip.high) : 0
    if (found < 0) return
    const index = this.proved(found, { form, value: String.fromCharCode(...units.subarray(from, to)) })
    if (index >= 0) this.note(index, depth, at)
  }

  /** Notes an identifier by its index, with everybody whose it is too. `at` is where it lies, at this depth. */
  note(index: number, depth: number, at: number): void {
    const { offset, line } = this.#layers.place(depth, at)
    const { form, proof } = this.sought[index]!
    for (let other = index; other >= 0; other = this.#tags.next(other)) {
      const one = this.sought[other]!
      if (one.form !== form || !one.proof.equals(proof)) continue
      const { subject, kind } = one
      const key = `${subject} ${kind} ${line}`
      if (this.#seen.has(key)) continue
      this.#seen.add(key)
      this.#hits.push({ subject, kind, offset, encodings: [...this.#layers.path] })
    }
  }
}

/** What anybody's identifiers look like: numbers of Afghanistan and its neighbours, e-Tazkiras, addresses. */
const PATTERNS: { kind: string; form: Form; pattern: RegExp }[] = [
  {
    kind: 'phone',
    form: 'international',
    pattern: /^(93[2-7]\d{8}|989\d{9}|923\d{9}|99[28]\d{9}|9936\d{7})$/,
  },
  { kind: 'phone', form: 'national', pattern: /^7\d{8}$/ },
  { kind: 'national-id', form: 'number', pattern: /^1[34]\d{11}$/ },
  { kind: 'e-mail', form: 'e-mail', pattern: /^[^@]+@[^@]+\.[a-z]{2,}$/ },
]

/** All that digits can be: a number, or a phone number in either form. */
export function* readingsOf(written: string): Generator<Canonical> {
  yield { form: 'number', value: written }
  const { international, national } = phoneReadings(written)
  for (const value of international) yield { form: 'international', value }
  for (const value of national) yield { form: 'national', value }
}
