import { clear, type Decoded } from './decode.ts'

/** Where the tag of HTML or XML ends that begins at a `<`; 0 where none does. */
export function tagEnd(bytes: Uint8Array, at: number, to: number): number {
  const next = bytes[at + 1]! | 0x20
  const isTag = (next >= 0x61 && next <= 0x7a) || bytes[at + 1] === 0x2f || bytes[at + 1] === 0x21
  if (!isTag) return 0
  const last = Math.min(to, at + LONGEST_TAG)
  const isComment = bytes[at + 1] === 0x21 && bytes[at + 2] === 0x2d
  for (let end = at + 2; end < last; end++) {
    if (bytes[end] === 0x3e && (!isComment || bytes[end - 1] === 0x2d)) return end + 1
    if (bytes[end] === 0x3c && !isComment) return 0
  }
  return 0
}
const LONGEST_TAG = 256

/** Text without its tags. */
export function undoTags(bytes: Uint8Array, from: number, to: number, into: Decoded): void {
  clear(into, to - from)
  for (let at = from; at < to; ) {
    const end = bytes[at] === 0x3c ? tagEnd(bytes, at, to) : 0
    if (end > 0) at = end
    else into.bytes[into.length++] = bytes[at++]!
  }
}

/**
 * The parts of an array that begins at a `[` as one text, `["0700","123","456"]` or `[(0700)-20(123)]`, after the name of its
 * field; where a value is no string or number, nothing. Returns where it ends, or `at`.
 */
export function joinParts(bytes: Uint8Array, at: number, from: number, to: number, into: Decoded): number {
  const last = Math.min(to, at + LONGEST_ARRAY)
  clear(into, LONGEST_ARRAY + FIELD_NAME + 2)
  for (let before = Math.max(from, at - FIELD_NAME); before < at; before++)
    into.bytes[into.length++] = bytes[before]!
  let quote = 0
  let parts = 0
  for (let next = at + 1; next < last; next++) {
    const byte = bytes[next]!
    // Within a string of JSON quotes have a backslash.
    if (byte === 0x5c) continue
    if (quote > PARENTHESES) {
      if (byte === 10) return at
      if (byte === quote) quote = quote === 0x29 ? PARENTHESES : 0
      else into.bytes[into.length++] = byte
    } else if (byte === 0x22 || byte === 0x27 || byte === 0x28) {
      quote = byte === 0x28 ? 0x29 : byte
      parts++
    } else if (byte === 0x5d) {
      into.bytes[into.length++] = 0x20
      return parts > 0 ? next + 1 : at
    } else if (byte >= 0x30 && byte <= 0x39) {
      // What moves the letters of a PDF's text is not written there.
      if (quote !== PARENTHESES) into.bytes[into.length++] = byte
    } else if (byte === 0x2d || byte === 0x2e) {
      if (quote !== PARENTHESES) return at
    } else if (byte !== 0x2c && byte !== 0x20 && byte !== 10 && byte !== 13) return at
  }
  return at
}
const LONGEST_ARRAY = 2_048
/** Between two strings of `[(07)-20(00)] TJ` (ISO 32000, section 9.4.3). */
const PARENTHESES = 1
const FIELD_NAME = 24

/** Strings that a program joins, `"0700" + '123456'` or `'a' || 'b'`, around an operator at `at`, as one text. */
export function joinStrings(bytes: Uint8Array, at: number, from: number, to: number, into: Decoded): void {
  clear(into, LONGEST_ARRAY)
  let start = at
  while (start > from && IN_JOINT[bytes[start - 1]!] === 1) start--
  const quote = bytes[start - 1]
  if (quote !== 0x22 && quote !== 0x27) return
  let open = start - 2
  const first = Math.max(from, open - 256)
  while (open >= first && bytes[open] !== quote && bytes[open] !== 10) open--
  if (bytes[open] !== quote) return
  for (let next = open; next < to && into.length < LONGEST_ARRAY - 256; ) {
    const mark = bytes[next]
    if (mark !== 0x22 && mark !== 0x27) return
    const limit = Math.min(to, next + 256)
    let end = next + 1
    for (; end < limit && bytes[end] !== mark && bytes[end] !== 10; end++)
      if (bytes[end] !== 0x5c) into.bytes[into.length++] = bytes[end]!
    if (bytes[end] !== mark) return
    next = end + 1
    while (next < to && next < end + 8 && IN_JOINT[bytes[next]!] === 1) next++
  }
}
const IN_JOINT = new Uint8Array(256)
for (const sign of ' +|.&\t\\') IN_JOINT[sign.charCodeAt(0)] = 1

/** What stands before and behind a line break as one text, with a space for the break or with nothing. */
export function joinHalves(
  bytes: Uint8Array,
  from: number,
  to: number,
  next: number,
  end: number,
  isSpaced: boolean,
  into: Decoded,
): void {
  clear(into, to - from + 1 + end - next)
  for (let at = from; at < to; at++) into.bytes[into.length++] = bytes[at]!
  if (isSpaced) into.bytes[into.length++] = 0x20
  for (let at = next; at < end; at++) into.bytes[into.length++] = bytes[at]!
}

/** Text from its last character to its first. */
export function reverse(bytes: Uint8Array, from: number, to: number, into: Decoded): void {
  clear(into, to - from)
  for (let end = to; end > from; ) {
    let start = end - 1
    while (start > from && start > end - 4 && (bytes[start]! & 0xc0) === 0x80) start--
    for (let at = start; at < end; at++) into.bytes[into.length++] = bytes[at]!
    end = start
  }
}
