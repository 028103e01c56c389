import { LONGEST_NUMBER, NUMBER_DIGITS } from '../identifier.ts'
import { FARTHEST_FIELD } from './bytes.ts'
import { DIAL, labelBefore, PART, PHONE, RECORD } from './field-name.ts'
import { type Findings, readingsOf } from './findings.ts'
import { DEPTHS } from './layers.ts'
import type { Groups } from './numbers.ts'

interface Part {
  meaning: number
  digits: string
  /** Where it ends. */
  end: number
}

/** Numbers that a field's name tells of: too short to stand alone, or split over two or three fields. */
export class NumberFields {
  readonly #findings: Findings
  /** By depth: the last parts of numbers, in order. */
  readonly #parts: Part[][] = Array.from({ length: DEPTHS }, () => [])
  /** 1 at how many digits a number has that is looked for beside a label. */
  readonly #labelledLengths = new Uint8Array(NUMBER_DIGITS)
  readonly #hasLabelled: boolean

  constructor(findings: Findings) {
    this.#findings = findings
    for (const { form, length } of findings.sought) if (form === 'labelled') this.#labelledLengths[length] = 1
    this.#hasLabelled = this.#labelledLengths.includes(1)
  }

  /** Forgets the parts of the text that was passed over at this depth. */
  begin(depth: number): void {
    this.#parts[depth]!.length = 0
  }

  /** Whether a part ends just before. */
  isNear(depth: number, start: number): boolean {
    const previous = this.#parts[depth]!.at(-1)
    return previous !== undefined && start - previous.end <= NEAR
  }

  /** A number of so many digits and groups, the value of a `field`: see `fieldBefore`. */
  read(
    bytes: Uint8Array,
    start: number,
    end: number,
    { digits, first }: Groups,
    count: number,
    groups: number,
    from: number,
    depth: number,
    field: number,
  ): void {
    let meaning = field
    const parts = this.#parts[depth]!
    const previous = parts.at(-1)
    if (meaning === 0 && previous && this.isNear(depth, start) && listed(bytes, previous.end, start)) {
      meaning = previous.meaning | PART
    }
    if (this.#hasLabelled && count < NUMBER_DIGITS) {
      const label = meaning === 0 ? labelBefore(bytes, start, from) : meaning
      if ((label & RECORD) !== 0) this.#labelled(digits, first, count, groups, depth, start)
    }
    if (meaning === 0) return
    const part = { meaning, digits: digits.subarray(0, count).join(''), end }
    while (parts.length > 0 && start - parts[0]!.end > FARTHEST_FIELD) parts.shift()
    for (const [at, other] of parts.entries()) {
      if (!belong(other.meaning, meaning)) continue
      if (this.#joined(other.digits + part.digits, depth, start)) break
      if (this.#joined(part.digits + other.digits, depth, start)) break
      const third = parts
        .slice(at + 1)
        .find((one) => belong(one.meaning, meaning) || belong(one.meaning, other.meaning))
      if (third && orders(other, third, part).some((digits) => this.#joined(digits, depth, start))) break
    }
    parts.push(part)
    if (parts.length > 8) parts.shift()
  }

  /** The number beside a label, to the end of each of its groups. */
  #labelled(
    digits: Uint8Array,
    first: Int32Array,
    count: number,
    groups: number,
    depth: number,
    at: number,
  ): void {
    for (let to = 0; to < groups; to++) {
      const length = to === groups - 1 ? count : first[to + 1]!
      if (length >= NUMBER_DIGITS) return
      if (this.#labelledLengths[length] === 0) continue
      const value = digits.subarray(0, length).join('')
      this.#findings.noteNumber(length, Number(value), [{ form: 'labelled', value }], depth, at)
    }
  }

  /** Two or three parts of a number: whether they are one that is looked for. */
  #joined(written: string, depth: number, at: number): boolean {
    if (written.length < NUMBER_DIGITS || written.length > LONGEST_NUMBER) return false
    const last = Number(written.slice(-NUMBER_DIGITS))
    return this.#findings.noteNumber(NUMBER_DIGITS, last, readingsOf(written), depth, at)
  }
}

/** From the end of one item of a list to the begin of the next. */
const NEAR = 6

/** Whether only what parts the items of a list stands between. */
function listed(bytes: Uint8Array, from: number, to: number): boolean {
  let commas = 0
  for (let at = from; at < to; at++) {
    if (bytes[at] === 0x2c) commas++
    else if (![0x20, 0x22, 0x27, 0x5c, 0x0a].includes(bytes[at]!)) return false
  }
  return commas === 1
}

/** All orders of three parts. */
function orders({ digits: a }: Part, { digits: b }: Part, { digits: c }: Part) {
  return [a + b + c, a + c + b, b + a + c, b + c + a, c + a + b, c + b + a]
}

/** Whether two fields may hold parts of one number, by what their names tell. */
const belong = (one: number, other: number): boolean =>
  ((one | other) & (PHONE | DIAL)) !== 0
    ? (one & (PHONE | PART | DIAL)) !== 0 && (other & (PHONE | PART | DIAL)) !== 0
    : ((one | other) & RECORD) !== 0 && (one & (RECORD | PART)) !== 0 && (other & (RECORD | PART)) !== 0
