import { clear, type Decoded, decodeBase64, HEX, putUtf8, undoEscapes } from './decode.ts'

/** A base32 alphabet: values by byte of either case, 255 for anything else. */
function base32(alphabet: string, same: Record<string, string> = {}): Uint8Array {
  const values = new Uint8Array(256).fill(255)
  for (const [value, sign] of [...alphabet].entries())
    for (const one of [sign, ...(same[sign] ?? '')])
      for (const cased of [one.toUpperCase(), one.toLowerCase()]) values[cased.charCodeAt(0)] = value
  return values
}

/** RFC 4648, sections 6 and 7; Crockford's; z-base-32. */
const BASE32 = [
  base32('ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'),
  base32('0123456789ABCDEFGHIJKLMNOPQRSTUV'),
  base32('0123456789ABCDEFGHJKMNPQRSTVWXYZ', { 0: 'O', 1: 'IL' }),
  base32('YBNDRFG8EJKMCPQXOT1UWISZA345H769'),
]
/** How many kinds of base32 there are, and how many digits nine bytes have in it. */
export const BASE32_KINDS = BASE32.length
export const SHORTEST_BASE32 = 15

/** Decodes a run as one kind of base32. Returns whether it may be text. */
export function decodeBase32(
  kind: number,
  bytes: Uint8Array,
  from: number,
  to: number,
  into: Decoded,
): boolean {
  const values = BASE32[kind]!
  clear(into, ((to - from) * 5) / 8 + 2)
  let bits = 0
  let held = 0
  for (let at = from; at < to; at++) {
    const value = values[bytes[at]!]!
    if (value === 255) return false
    bits = ((bits << 5) | value) & 0xfff
    held += 5
    if (held < 8) continue
    held -= 8
    const byte = (bits >> held) & 255
    // Of what is no text, the first bytes tell.
    if (into.length < 5 && (byte < 0x20 || byte === 0x7f)) return false
    into.bytes[into.length++] = byte
  }
  return true
}

function base85(alphabet: string): Uint8Array {
  const values = new Uint8Array(256).fill(255)
  for (const [value, sign] of [...alphabet].entries()) values[sign.charCodeAt(0)] = value
  return values
}
/** Adobe's and btoa's; RFC 1924's, which git and Python have; ZeroMQ's Z85. */
const BASE85 = [
  base85(Array.from({ length: 85 }, (_, value) => String.fromCharCode(33 + value)).join('')),
  base85('0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~'),
  base85('0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#'),
]

export const BASE85_KINDS = BASE85.length
/** By kind and byte: whether four bytes of text may begin with this digit. */
const FIRST85 = BASE85.map((values) => values.map((value) => (value >= 10 && value <= 79 ? 1 : 0)))

/** Decodes one kind of base85 from an exact place, for as long as it is text. Returns whether that is nine bytes or more. */
export function decodeBase85(
  kind: number,
  bytes: Uint8Array,
  from: number,
  to: number,
  into: Decoded,
): boolean {
  const values = BASE85[kind]!
  if (FIRST85[kind]![bytes[from]!] === 0 || !isPlain(group85(values, bytes, from, 5))) return false
  clear(into, to - from + 8)
  for (let at = from; at < to; at += 5) {
    let size = 0
    while (size < 5 && at + size < to && values[bytes[at + size]!] !== 255) size++
    const group = size < 2 ? -1 : group85(values, bytes, at, size)
    if (group < 0) break
    for (let n = 0; n < size - 1; n++) {
      const byte = Math.floor(group / 2 ** (24 - 8 * n)) & 255
      if (byte < 0x20 && byte !== 10 && byte !== 13 && byte !== 9) return into.length >= 9
      into.bytes[into.length++] = byte
    }
    if (size < 5) break
  }
  return into.length >= 9
}

/** The value of up to five digits, filled up with the highest; -1 where there is none. */
function group85(values: Uint8Array, bytes: Uint8Array, at: number, size: number): number {
  let group = 0
  for (let n = 0; n < 5; n++) {
    const value = n < size ? values[bytes[at + n]!]! : 84
    if (value === 255 || value === undefined) return -1
    group = group * 85 + value
  }
  return group < 2 ** 32 ? group : -1
}

/** Whether four bytes are text, of ASCII or the beginnings and ends of UTF-8's characters. */
function isPlain(group: number): boolean {
  if (group < 0) return false
  const word = group | 0
  for (let shift = 24; shift >= 0; shift -= 8) {
    const byte = (word >>> shift) & 255
    if (byte < 0x20 || byte === 0x7f || byte === 0xc0 || byte > 0xf4) return false
  }
  return true
}

/** Whether a line has just the length that its first character says, as those of a uuencoded file. */
export function isUuLine(bytes: Uint8Array, at: number, to: number): boolean {
  const first = bytes[at]!
  if (at >= to || first < 0x29 || first > 0x60) return false
  const end = at + 1 + Math.ceil(((first - 32) & 63) / 3) * 4
  return end <= to && (end === to || bytes[end] === 10 || bytes[end] === 13 || bytes[end] === 0x22)
}

/** Whether a line is one of a hex dump (xxd, hexdump, od -tx1): an offset of four to eight digits, and bytes. */
export function isDumpLine(bytes: Uint8Array, from: number, to: number): boolean {
  return (
    to - from >= 16 && dumpedAt(bytes, from, to) > 0 && HEX[bytes[dumpedAt(bytes, from, to) + 1]!] !== 255
  )
}

/** Where the bytes of a line of a dump begin; 0 where it is none. */
function dumpedAt(bytes: Uint8Array, from: number, to: number): number {
  let at = from
  while (at < to && at < from + 9 && HEX[bytes[at]!] !== 255) at++
  if (at - from < 4 || at - from > 8 || (bytes[at] !== 0x3a && bytes[at] !== 0x20)) return 0
  while (at < to && (bytes[at] === 0x3a || bytes[at] === 0x20)) at++
  return HEX[bytes[at]!] === 255 ? 0 : at
}

/** The bytes of a hex dump, line after line. Returns where it ends. */
export function decodeDump(bytes: Uint8Array, from: number, to: number, into: Decoded): number {
  clear(into, (to - from) >> 1)
  let line = from
  while (line < to) {
    let end = line
    while (end < to && bytes[end] !== 10) end++
    let at = dumpedAt(bytes, line, end)
    if (at === 0) break
    for (let count = 0; count < 32 && at + 1 < end; count++) {
      const [high, low] = [HEX[bytes[at]!]!, HEX[bytes[at + 1]!]!]
      if ((high | low) > 15) break
      into.bytes[into.length++] = (high << 4) | low
      at += 2
      // Two spaces are in the middle; then come the same bytes as characters.
      if (bytes[at] === 0x20) at++
      if (bytes[at] === 0x20 && count === 7) at++
    }
    line = end + 1
  }
  return line
}

/** The lines of a uuencoded file (POSIX), from the one after `begin` on. Returns where it ends. */
export function decodeUu(bytes: Uint8Array, from: number, to: number, into: Decoded): number {
  clear(into, to - from + 4)
  let at = from
  while (at < to) {
    const size = (bytes[at]! - 32) & 63
    if (bytes[at]! < 0x20 || bytes[at]! > 0x60 || size === 0) break
    const start = into.length
    let next = at + 1
    for (; into.length - start < size; next += 4) {
      const [a, b, c, d] = [0, 1, 2, 3].map((n) => ((bytes[next + n] ?? 32) - 32) & 63) as [
        number,
        number,
        number,
        number,
      ]
      const three = (a << 18) | (b << 12) | (c << 6) | d
      for (const shift of [16, 8, 0]) into.bytes[into.length++] = (three >> shift) & 255
    }
    into.length = start + size
    while (next < to && bytes[next] !== 10 && next < at + 90) next++
    at = next + 1
  }
  return at
}

/** UTF-32 as UTF-8. */
export function decodeUtf32(
  bytes: Uint8Array,
  from: number,
  to: number,
  bigEndian: boolean,
  into: Decoded,
): void {
  clear(into, to - from + 4)
  for (let at = from; at + 3 < to; at += 4) {
    const [a, b, c, d] = [bytes[at]!, bytes[at + 1]!, bytes[at + 2]!, bytes[at + 3]!]
    const unit = bigEndian
      ? ((a << 24) | (b << 16) | (c << 8) | d) >>> 0
      : ((d << 24) | (c << 16) | (b << 8) | a) >>> 0
    putUtf8(into, unit === 0 || unit > 0x10ffff ? 0x20 : unit)
  }
}

/** `{"0":48,"1":55,…}`: an array of bytes as JavaScript prints it. From its first key; returns where it ends. */
export function decodeIndexed(bytes: Uint8Array, from: number, to: number, into: Decoded): number {
  clear(into, 4 * (to - from) + 4)
  let at = from
  for (let index = 0; at < to; index++) {
    const key = numberAt(bytes, at, to)
    if (key.value !== index) break
    at = skip(bytes, key.end, to, '":\' \\')
    if (bytes[at - 1] === 0x22 || bytes[at - 1] === 0x27) {
      // `{"0":"0","1":"7",…}`: a string as an object.
      let end = at
      while (end < to && end < at + 4 && bytes[end] !== bytes[at - 1] && bytes[end] !== 0x5c)
        into.bytes[into.length++] = bytes[end++]!
      at = skip(bytes, end, to, ',"\' \\\n')
      continue
    }
    const item = numberAt(bytes, at, to)
    if (item.end === at || item.value > 0x10ffff) break
    if (item.value < 0x100) into.bytes[into.length++] = item.value
    else putUtf8(into, item.value)
    at = skip(bytes, item.end, to, ',"\' \\\n')
  }
  return at
}

/** `0b00110000, 0b00110111` and `0o60,0o67`: bytes by their marks. Returns where they end, or `at` when fewer than nine stand there. */
export function decodeMarked(bytes: Uint8Array, at: number, to: number, into: Decoded): number {
  clear(into, to - at)
  const base = (bytes[at + 1]! | 0x20) === 0x62 ? 2 : 8
  let end = at
  for (let next = at; next + 2 < to && bytes[next] === 0x30 && bytes[next + 1] === bytes[at + 1]; ) {
    let value = 0
    end = next + 2
    while (end < to && end < next + 10 && bytes[end]! >= 0x30 && bytes[end]! < 0x30 + base)
      value = value * base + bytes[end++]! - 0x30
    if (end === next + 2 || value > 255) break
    into.bytes[into.length++] = value
    next = skip(bytes, end, to, ' ,;:|\n')
  }
  return into.length >= 9 ? end : at
}

/** Whether `0x`, `0b` or `0o` at a place is not the first of its list. */
export function goesOn(bytes: Uint8Array, at: number, from: number): boolean {
  let before = at - 1
  while (before > from && before > at - 4 && IN_WORDS[bytes[before]!] === 1) before--
  if (before === at - 1) return false
  const last = before
  while (before > from && before > last - 9 && HEX[bytes[before]!] !== 255) before--
  // The mark's own figures are hex digits as well, but for x and o.
  return bytes[before] === bytes[at + 1] || (last - before > 8 && bytes[before + 1] === bytes[at + 1])
}

/**
 * Words of a mail's head that are encoded (RFC 2047), `=?UTF-8?B?…?=` and `=?UTF-8?Q?…?=`, and what follows each other of
 * them as one text. Returns where they end.
 */
export function decodeEncodedWords(bytes: Uint8Array, at: number, to: number, into: Decoded): number {
  clear(into, LONGEST_WORDS)
  const part: Decoded = { bytes: new Uint8Array(0), length: 0 }
  let end = at
  for (let next = at; next < to && into.length < LONGEST_WORDS - 128; ) {
    const text = Buffer.from(bytes.buffer, bytes.byteOffset + next, Math.min(128, to - next)).toString(
      'latin1',
    )
    const [whole, kind, written = ''] = ENCODED_WORD.exec(text) ?? []
    if (whole === undefined) break
    const word = Buffer.from(written, 'latin1')
    if (kind!.toLowerCase() === 'b') decodeBase64(word, 0, word.length, part)
    else
      undoEscapes(
        word.map((byte) => (byte === 0x5f ? 0x20 : byte)),
        0,
        word.length,
        true,
        part,
      )
    for (let n = 0; n < part.length; n++) into.bytes[into.length++] = part.bytes[n]!
    end = next + whole.length
    next = skip(bytes, end, to, ' \t\r\n')
  }
  return end
}
/** Bytes that all of them together may have. */
const LONGEST_WORDS = 2_048
const ENCODED_WORD = /^=\?[\w*-]{2,24}\?([bq])\?([^?\s]{0,80})\?=/i

/**
 * Phone numbers as an SMS carries them (3GPP TS 23.040, section 9.1.2.5): how many figures, of what kind, then two figures a
 * byte, the second first. Of all in a run of hex digits, as text.
 */
export function decodeSemiOctets(bytes: Uint8Array, from: number, to: number, into: Decoded): void {
  // The next may begin within one.
  clear(into, 9 * (to - from))
  for (let at = from; at + 16 < to; at += 2) {
    const kind = bytes[at + 2]!
    if (bytes[at + 3] !== 0x31 || bytes[at] !== 0x30) continue
    const count = HEX[bytes[at + 1]!]!
    if (count < 9 || count > 15 || (kind !== 0x39 && kind !== 0x38 && (kind | 0x20) !== 0x61)) continue
    const start = into.length
    if (kind === 0x39) into.bytes[into.length++] = 0x2b
    for (let n = 0; n < count; n++) into.bytes[into.length++] = bytes[at + 4 + (n ^ 1)] ?? 0
    into.bytes[into.length++] = 0x20
    for (let n = start + 1; n < into.length - 1; n++)
      if (into.bytes[n]! < 0x30 || into.bytes[n]! > 0x39) into.length = start
  }
}

function numberAt(bytes: Uint8Array, at: number, to: number): { value: number; end: number } {
  let value = 0
  let end = at
  while (end < to && end < at + 7 && bytes[end]! >= 0x30 && bytes[end]! <= 0x39)
    value = value * 10 + bytes[end++]! - 0x30
  return { value, end }
}

function skip(bytes: Uint8Array, from: number, to: number, signs: string): number {
  let at = from
  while (at < to && at < from + 4 && signs.includes(String.fromCharCode(bytes[at]!))) at++
  return at
}

/**
 * Figures that are bytes of a fixed size: `048055048` (three decimal ones each), `060 067 060` (octal), `00110000` (binary).
 * @param digits of all groups, one after the other.
 */
export function decodeFigures(
  digits: Uint8Array,
  count: number,
  take: (decoded: Decoded) => void,
  into: Decoded,
): void {
  for (const [size, base] of [
    [3, 10],
    [3, 8],
    [8, 2],
  ] as const) {
    if (count % size !== 0 || count / size < 9) continue
    clear(into, count / size)
    for (let at = 0; at < count; at += size) {
      let value = 0
      for (let n = 0; n < size; n++) value = digits[at + n]! < base ? value * base + digits[at + n]! : 256
      if (value > 255) break
      into.bytes[into.length++] = value
    }
    if (into.length === count / size) take(into)
  }
}

/** Words of hex digits, `30373030 31323334` or `0x30373030,…`, as the bytes that they hold; returns where they end. */
export function decodeHexWords(bytes: Uint8Array, at: number, to: number, into: Decoded): number {
  clear(into, (to - at) >> 1)
  let end = at
  for (let next = at; next < to; ) {
    if (bytes[next] === 0x30 && (bytes[next + 1]! | 0x20) === 0x78) next += 2
    const start = next
    while (next < to && HEX[bytes[next]!] !== 255) next++
    if (next === start || (next - start) % 2 !== 0) break
    for (let pair = start; pair < next; pair += 2)
      into.bytes[into.length++] = (HEX[bytes[pair]!]! << 4) | HEX[bytes[pair + 1]!]!
    end = next
    while (next < to && next < end + 3 && IN_WORDS[bytes[next]!] === 1) next++
    if (next === end) break
  }
  return end
}
const IN_WORDS = new Uint8Array(256)
for (const sign of ' ,:;-|._/\n') IN_WORDS[sign.charCodeAt(0)] = 1

/** `\00002b` and `\0030`: code points as CSS and Oracle's UNISTR write them. Returns whether there were nine. */
export function undoCodePoints(bytes: Uint8Array, from: number, to: number, into: Decoded): boolean {
  clear(into, to - from + 4)
  let undone = 0
  for (let at = from; at < to; ) {
    if (bytes[at] === 0x5c && at + 4 < to) {
      let end = at + 1
      while (end < to && end < at + 7 && HEX[bytes[end]!] !== 255) end++
      // Six where there are six, or four.
      const digits = end - at - 1 === 6 && bytes[at + 1] === 0x30 && bytes[at + 2] === 0x30 ? 6 : 4
      if (end - at - 1 >= digits) {
        let codePoint = 0
        for (let digit = at + 1; digit <= at + digits; digit++)
          codePoint = codePoint * 16 + HEX[bytes[digit]!]!
        putUtf8(into, codePoint)
        undone++
        at += digits + 1
        continue
      }
    }
    into.bytes[into.length++] = bytes[at++]!
  }
  return undone >= 9
}

/** Whether what was decoded is text at its beginning; of other things few are. */
export function beginsAsText({ bytes, length }: Decoded): boolean {
  for (let at = 0; at < 6 && at < length; at++) if (bytes[at]! < 0x20 || bytes[at] === 0x7f) return false
  return length >= 9
}
