import type { Form } from '../identifier.ts'
import { ASCII_WORD, COLON, DASH, isFigure, textOf } from './bytes.ts'
import { HEX } from './decode.ts'
import { DIAL, fieldBefore, labelBefore, PHONE, RECORD } from './field-name.ts'
import type { Groups } from './numbers.ts'

/**
 * Whether the groups from `first` to `last` are written as an identifier is: not as a float, a time, a column of other figures.
 *
 * @param written Their digits.
 */
export function isMeant(
  bytes: Uint8Array,
  groups: Groups,
  first: number,
  last: number,
  written: string,
  form: Form,
  isAnybodys: boolean,
  from: number,
  to: number,
): boolean {
  const [start, end] = [groups.at[first]!, groups.end[last]!]
  if (isHexOfId(bytes, start, end, from, to)) return false
  // Nobody's number in particular: other ids look like one now and then.
  if (isAnybodys && (ASCII_WORD[bytes[start - 1]!] || (end < to && ASCII_WORD[bytes[end]!]))) return false
  const sizeAt = (group: number) =>
    group === last
      ? written.length - (groups.first[group]! - groups.first[first]!)
      : groups.first[group + 1]! - groups.first[group]!
  let [dots, columns] = [0, 0]
  for (let group = first; group < last; group++) {
    const gap = bytes.subarray(groups.end[group]!, groups.at[group + 1]!)
    if (gap.some(isColumn)) columns++
    else if (gap.length === 1 && gap[0] === 0x2e) dots++
  }
  // 15:41:03
  if (bytes[end] === COLON && isFigure(bytes[end + 1]) && sizeAt(last) === 2) return false
  if (bytes[start - 1] === COLON && isFigure(bytes[start - 2]) && sizeAt(first) === 2) return false
  const abroad = written.startsWith('00') || plusBefore(bytes, start, from)
  if (abroad) return true
  const trunk = written.startsWith('0')
  const firstSize = sizeAt(first)
  // 0.712345678 and 0,712345678; 93.700123456 may be a share in percent.
  const loose = columns > 0 || dots > 0
  const isFigureByFigure = last - first + 1 === written.length
  if (
    trunk &&
    firstSize === 1 &&
    form !== 'number' &&
    !isFigureByFigure &&
    isLoose(bytes[groups.end[first]!])
  )
    return false
  const isScientific = dots === 1 && firstSize === 1 && hasExponent(bytes, end, written.length - 1)
  if (!trunk && dots === 1 && last - first === 1 && firstSize <= 3 && !isScientific) return false
  if (trunk || form === 'international') return true
  // Of ten digits the seconds since 1970 alone are met everywhere.
  if (form === 'number' && written.length >= 10 && (last > first || !/^1[5-9]\d{8}$/.test(written)))
    return true
  return isMeantBare(bytes, groups, first, last, loose, from, to)
}

/** Nine or ten digits with nothing that tells what they are: a name or a label must, or the way they are grouped. */
function isMeantBare(
  bytes: Uint8Array,
  groups: Groups,
  first: number,
  last: number,
  loose: boolean,
  from: number,
  to: number,
): boolean {
  const [start, end] = [groups.at[first]!, groups.end[last]!]
  if (start === from && end === to) return true
  // The end of a longer number, as another country's is.
  if (first > 0 && !bytes.subarray(groups.end[first - 1]!, start).some(isColumn)) return false
  if (((fieldBefore(bytes, start, from) | labelBefore(bytes, start, from)) & (PHONE | RECORD | DIAL)) !== 0)
    return true
  if (last - first >= 2 && !loose) return true
  const [before, after] = [bytes[start - 1]!, bytes[bytes[end] === 0x5c ? end + 1 : end]!]
  if (before !== after || (before !== 0x22 && before !== 0x27)) return false
  let sign = start - 2
  while (sign >= from && (bytes[sign] === 0x20 || bytes[sign] === 0x5c)) sign--
  return sign < from || (bytes[sign] !== COLON && bytes[sign] !== 0x3d)
}

/** Whether a figure with so many digits behind its point is a whole number: `9.3700123456e10`. */
function hasExponent(bytes: Uint8Array, at: number, digits: number): boolean {
  if ((bytes[at]! | 0x20) !== 0x65) return false
  const text = textOf(bytes, at + 1, at + 4)
  return Number(/^\+?(\d{1,2})/.exec(text)?.[1]) >= digits
}

/** What parts the columns of a table. */
const isColumn = (byte: number): boolean =>
  byte === 0x2c || byte === 0x3b || byte === 0x7c || byte === 0x5e || byte === 0x09

const isLoose = (byte: number | undefined): boolean => byte === 0x2e || (byte !== undefined && isColumn(byte))

/** Whether figures are part of an id in hex digits: a UUID, cut by its dashes, or a longer one. */
function isHexOfId(bytes: Uint8Array, start: number, end: number, from: number, to: number): boolean {
  let first = start
  while (first > from && HEX[bytes[first - 1]!] !== 255) first--
  let past = end
  while (past < to && HEX[bytes[past]!] !== 255) past++
  if (first === start && past === end) return false
  const isWordChar = (byte: number) => byte < 0x80 && ASCII_WORD[byte] !== 0
  if ((first > from && isWordChar(bytes[first - 1]!)) || (past < to && isWordChar(bytes[past]!))) return false
  return bytes.subarray(Math.max(from, first - 1), past).includes(DASH) || past - first >= 16
}

/** Whether a plus stands before, with no more between than a space or a bracket. */
function plusBefore(bytes: Uint8Array, at: number, from: number): boolean {
  for (let before = at - 1; before >= from && before >= at - 8; before--) {
    const byte = bytes[before]!
    if (byte === 0x2b) return true
    // Spaces, brackets, bidi marks, and the last byte of a fullwidth plus.
    if (byte === 0x8b && bytes[before - 1] === 0xbc) return true
    if (byte !== 0x20 && byte !== 0x28 && byte < 0x80) return false
  }
  return false
}
