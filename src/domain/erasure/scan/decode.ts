/** Values by byte: of a base64 digit in either alphabet, of a hex digit; 255 for anything else. */
export const BASE64 = valuesOf('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/', '-_')
export const HEX = valuesOf('0123456789abcdef', '')
for (let value = 10; value < 16; value++) HEX[0x37 + value] = value

function valuesOf(alphabet: string, lastOnes: string): Uint8Array {
  const values = new Uint8Array(256).fill(255)
  for (const [value, sign] of [...alphabet].entries()) values[sign.charCodeAt(0)] = value
  for (const [at, sign] of [...lastOnes].entries())
    values[sign.charCodeAt(0)] = alphabet.length - lastOnes.length + at
  return values
}

/** A place to decode into: `length` bytes of `bytes` are filled. */
export interface Decoded {
  bytes: Uint8Array
  length: number
}

/** Makes room. What was in it is lost. */
export function clear(into: Decoded, capacity: number): void {
  if (into.bytes.length < capacity) into.bytes = new Uint8Array(Math.max(capacity, 2 * into.bytes.length))
  into.length = 0
}

/** Decodes base64 digits, of either alphabet, from an exact place: whoever does not know it tries four. */
export function decodeBase64(bytes: Uint8Array, from: number, to: number, into: Decoded): void {
  clear(into, ((to - from) * 3) / 4 + 3)
  const out = into.bytes
  let length = 0
  let bits = 0
  let held = 0
  for (let at = from; at < to; at++) {
    const value = BASE64[bytes[at]!]!
    // A line break within a run.
    if (value === 255) continue
    bits = ((bits << 6) | value) & 0xffff
    held += 6
    if (held < 8) continue
    held -= 8
    out[length++] = bits >> held
  }
  into.length = length
}

export function decodeHex(bytes: Uint8Array, from: number, to: number, into: Decoded): void {
  clear(into, (to - from) >> 1)
  for (let at = from; at + 1 < to; ) {
    const [high, low] = [HEX[bytes[at]!]!, HEX[bytes[at + 1]!]!]
    // A line break within a run.
    if ((high | low) > 15) at++
    else {
      into.bytes[into.length++] = (high << 4) | low
      at += 2
    }
  }
}

/**
 * Whether four base64 digits may be three bytes of text: ASCII, or UTF-8 of what is written with identifiers (Arabic,
 * Latin, general punctuation, fullwidth forms), or UTF-16 of it. Two such quads in a row lie in every encoded identifier
 * of nine bytes; of other words few have them.
 */
export function quadIsText(bits: number): boolean {
  const one = TEXT[bits >> 16]!
  const two = TEXT[(bits >> 8) & 255]!
  const three = TEXT[bits & 255]!
  return (one & two & three) !== 0 || FOLLOWS[(one << 10) | (two << 5) | three] === 1
}

const [BAD, ASCII, CONTINUES, LEADS, WIDE] = [0, 1, 2, 4, 8]
// By byte; a byte of UTF-16's other half (0x00, 0x06, 0xff) is text beside any.
const TEXT = new Uint8Array(256)
for (let byte = 0; byte < 256; byte++) {
  if (byte === 0 || byte === 6 || byte === 255) TEXT[byte] = WIDE
  else if (byte === 9 || byte === 10 || byte === 13 || (byte >= 0x20 && byte < 0x7f)) TEXT[byte] = ASCII
  else if (byte >= 0x80 && byte < 0xc0) TEXT[byte] = CONTINUES
  else if ([0xc2, 0xc3, 0xd8, 0xd9, 0xda, 0xdb, 0xe2, 0xef, 0xf0].includes(byte)) TEXT[byte] = LEADS
  else TEXT[byte] = BAD
}
const FOLLOWS = new Uint8Array(1 << 15)
for (const one of [BAD, ASCII, CONTINUES, LEADS, WIDE]) {
  for (const two of [BAD, ASCII, CONTINUES, LEADS, WIDE]) {
    for (const three of [BAD, ASCII, CONTINUES, LEADS, WIDE]) {
      const follows = (a: number, b: number) =>
        a !== BAD &&
        b !== BAD &&
        ((a === LEADS) === (b === CONTINUES) || (a === CONTINUES && b === CONTINUES))
      const wide = two === WIDE || (one === WIDE && three === WIDE)
      FOLLOWS[(one! << 10) | (two! << 5) | three!] =
        wide || (follows(one!, two!) && follows(two!, three!)) ? 1 : 0
    }
  }
}

/** The bytes of the character at a place; 0 where none of text stands. */
export function textSize(bytes: Uint8Array, at: number, to: number): number {
  return TEXT[bytes[at]!] === ASCII ? 1 : textAt(bytes, at, to)
}

function textAt(bytes: Uint8Array, at: number, to: number): number {
  const byte = bytes[at]!
  if (TEXT[byte] === WIDE) return 1
  if (byte < 0x80) return TEXT[byte] === BAD ? (besideWide(bytes, at, to) ? 1 : 0) : 1
  const size = byte >= 0xf0 && byte < 0xf5 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc2 && byte < 0xe0 ? 2 : 0
  if (size > 0 && at + size <= to) {
    let good = true
    for (let next = at + 1; next < at + size; next++) good &&= (bytes[next]! & 0xc0) === 0x80
    if (good) return size
  }
  // Cut in a character, or the other half of a pair.
  if (besideWide(bytes, at, to)) return 1
  return (byte & 0xc0) === 0x80 && at === 0 ? 1 : 0
}

const besideWide = (bytes: Uint8Array, at: number, to: number): boolean =>
  (at > 0 && TEXT[bytes[at - 1]!] === WIDE) || (at + 1 < to && TEXT[bytes[at + 1]!] === WIDE)

/**
 * Undoes the escapes of one layer: percent (RFC 3986, and `%u06F0`), JSON, JavaScript and C (`\u06f0`, `\u{6f0}`, `\x30`,
 * `\060`), RTF (`\'30`, `\u1776?`), HTML entities and a terminal's colours (ECMA-48) all at once, or else quoted-printable (RFC 2045) with its soft
 * line breaks, which would take `=7` in `number=700` for its own. Returns whether there was any.
 */
export function undoEscapes(
  bytes: Uint8Array,
  from: number,
  to: number,
  quoted: boolean,
  into: Decoded,
): boolean {
  clear(into, to - from + 4)
  let kept = 0
  let high = 0
  let at = from
  // Where an escape ended of the kind that is told by its neighbours.
  let shortTo = -1
  const put = (codePoint: number) => {
    if (codePoint >= 0xd800 && codePoint < 0xdc00) {
      high = codePoint
      return
    }
    if (codePoint >= 0xdc00 && codePoint < 0xe000) {
      if (high !== 0) putUtf8(into, 0x10000 + ((high - 0xd800) << 10) + codePoint - 0xdc00)
    } else putUtf8(into, codePoint)
    high = 0
  }
  while (at < to) {
    const byte = bytes[at]!
    if (byte === (quoted ? EQUALS : PERCENT)) {
      const value = hexAt(bytes, at + 1, 2, to)
      if (value >= 0) {
        into.bytes[into.length++] = value
        at += 3
        continue
      }
      if (byte === PERCENT && (bytes[at + 1]! | 0x20) === 0x75) {
        const unit = hexAt(bytes, at + 2, 4, to)
        if (unit >= 0) {
          put(unit)
          at += 6
          continue
        }
      }
      if (byte === EQUALS && (bytes[at + 1] === 10 || (bytes[at + 1] === 13 && bytes[at + 2] === 10))) {
        at += bytes[at + 1] === 10 ? 2 : 3
        continue
      }
    } else if (byte === BACKSLASH && !quoted && at + 1 < to) {
      const next = bytes[at + 1]!
      const unit = next === 0x75 ? hexAt(bytes, at + 2, 4, to) : -1
      // `\'fa` may as well begin a quoted word: RTF writes several.
      const isRtf = next === 0x27 && (bytes[at + 4] === BACKSLASH || at === shortTo)
      const pair = next === 0x78 || isRtf ? hexAt(bytes, at + 2, 2, to) : -1
      if (unit >= 0 && bytes[at + 6] === 0x3f && decimalAt(bytes, at + 2) > 0) {
        put(decimalAt(bytes, at + 2))
        at += 7
      } else if (unit >= 0) {
        put(unit)
        at += 6
      } else if (pair >= 0) {
        into.bytes[into.length++] = pair
        at += 4
        shortTo = at
      } else if (next === 0x55 && hexAt(bytes, at + 2, 8, to) > 0) {
        put(hexAt(bytes, at + 2, 8, to))
        at += 10
      } else if ((next === 0x75 || next === 0x78) && bytes[at + 2] === 0x7b) {
        let end = at + 3
        let codePoint = 0
        while (end < to && end < at + 9 && HEX[bytes[end]!] !== 255)
          codePoint = codePoint * 16 + HEX[bytes[end++]!]!
        put(codePoint)
        at = bytes[end] === 0x7d ? end + 1 : end
      } else if (isOctal(next) && isOctal(bytes[at + 2]) && isOctal(bytes[at + 3])) {
        into.bytes[into.length++] = ((next & 7) << 6) | ((bytes[at + 2]! & 7) << 3) | (bytes[at + 3]! & 7)
        at += 4
      } else if (isOctal(next) && isOctal(bytes[at + 2]) && (bytes[at + 3] === BACKSLASH || at === shortTo)) {
        into.bytes[into.length++] = ((next & 7) << 3) | (bytes[at + 2]! & 7)
        at += 3
        shortTo = at
      } else {
        // Of any other than these the backslash goes.
        into.bytes[into.length++] = next === 0x6e ? 0x0a : next === 0x72 ? 0x0d : next === 0x74 ? 0x09 : next
        at += 2
      }
      continue
    } else if (byte === ESC && bytes[at + 1] === 0x5b && !quoted) {
      at += 2
      while (at < to && bytes[at]! >= 0x20 && bytes[at]! < 0x40) at++
      if (at < to) at++
      continue
    } else if (byte === AMPERSAND && !quoted) {
      const text = Buffer.from(bytes.buffer, bytes.byteOffset + at + 1, Math.min(12, to - at - 1))
      // Browsers read numbers without the semicolon, too.
      const [written = '', name = ''] = ENTITY.exec(text.toString('latin1')) ?? []
      const codePoint = entity(name)
      if (codePoint > 0) {
        put(codePoint)
        at += 1 + written.length
        continue
      }
    }
    into.bytes[into.length++] = byte
    at++
    kept++
  }
  return kept < to - from
}

const [PERCENT, BACKSLASH, AMPERSAND, EQUALS, ESC] = [0x25, 0x5c, 0x26, 0x3d, 0x1b]

const isOctal = (byte: number | undefined): boolean => byte !== undefined && byte >= 0x30 && byte <= 0x37

/** The value of four decimal digits; 0 where others stand. */
function decimalAt(bytes: Uint8Array, at: number): number {
  let value = 0
  for (let next = at; next < at + 4; next++) {
    if (bytes[next]! < 0x30 || bytes[next]! > 0x39) return 0
    value = value * 10 + bytes[next]! - 0x30
  }
  return value
}

/** The value of `digits` hex digits, or -1. */
function hexAt(bytes: Uint8Array, at: number, digits: number, to: number): number {
  if (at + digits > to) return -1
  let value = 0
  for (let end = at + digits, next = at; next < end; next++) {
    const digit = HEX[bytes[next]!]!
    if (digit === 255) return -1
    value = (value << 4) | digit
  }
  return value
}

const ENTITY = /^(#[xX][0-9a-fA-F]{1,6}|#\d{1,7}|\w+(?=;));?/

function entity(name: string): number {
  const [, hex, decimal] = /^#(?:[xX]([0-9a-fA-F]{1,6})|(\d{1,7}))$/.exec(name) ?? []
  if (hex !== undefined) return Number.parseInt(hex, 16)
  if (decimal !== undefined) return Number(decimal)
  return ENTITIES[name] ?? ENTITIES[name.toLowerCase()] ?? 0
}

/** Named characters of HTML that stand within or between identifiers. */
const ENTITIES: Record<string, number> = {
  amp: 0x26,
  lt: 0x3c,
  gt: 0x3e,
  quot: 0x22,
  apos: 0x27,
  nbsp: 0xa0,
  ensp: 0x2002,
  emsp: 0x2003,
  thinsp: 0x2009,
  numsp: 0x2007,
  puncsp: 0x2008,
  hairsp: 0x200a,
  shy: 0xad,
  zwnj: 0x200c,
  zwj: 0x200d,
  lrm: 0x200e,
  rlm: 0x200f,
  ndash: 0x2013,
  mdash: 0x2014,
  hyphen: 0x2010,
  dash: 0x2010,
  minus: 0x2212,
  plus: 0x2b,
  lpar: 0x28,
  rpar: 0x29,
  period: 0x2e,
  commat: 0x40,
  sol: 0x2f,
  comma: 0x2c,
  colon: 0x3a,
  lowbar: 0x5f,
  num: 0x23,
  percnt: 0x25,
  bsol: 0x5c,
  equals: 0x3d,
  tab: 0x09,
  newline: 0x20,
}

export function putUtf8(into: Decoded, codePoint: number): void {
  const { bytes } = into
  if (codePoint < 0x80) bytes[into.length++] = codePoint
  else if (codePoint < 0x800) {
    bytes[into.length++] = 0xc0 | (codePoint >> 6)
    bytes[into.length++] = 0x80 | (codePoint & 63)
  } else if (codePoint < 0x10000) {
    bytes[into.length++] = 0xe0 | (codePoint >> 12)
    bytes[into.length++] = 0x80 | ((codePoint >> 6) & 63)
    bytes[into.length++] = 0x80 | (codePoint & 63)
  } else if (codePoint < 0x110000) {
    bytes[into.length++] = 0xf0 | (codePoint >> 18)
    bytes[into.length++] = 0x80 | ((codePoint >> 12) & 63)
    bytes[into.length++] = 0x80 | ((codePoint >> 6) & 63)
    bytes[into.length++] = 0x80 | (codePoint & 63)
  }
}

/** UTF-16 as UTF-8. */
export function decodeUtf16(
  bytes: Uint8Array,
  from: number,
  to: number,
  bigEndian: boolean,
  into: Decoded,
): void {
  clear(into, (to - from) * 2 + 4)
  for (let at = from; at + 1 < to; at += 2) {
    const unit = bigEndian ? (bytes[at]! << 8) | bytes[at + 1]! : bytes[at]! | (bytes[at + 1]! << 8)
    // Halves of a pair are no identifier's; two ASCII characters, read as one, part what stands beside them.
    const isNone = unit === 0 || (unit >= 0xd800 && unit < 0xe000)
    const isAscii = (unit & 0x8080) === 0 && unit >= 0x2000 && (unit & 255) >= 0x20
    putUtf8(into, isNone || isAscii ? 0x20 : unit)
  }
}

/** UTF-8 that was read as Windows-1252 or Latin-1 and written as UTF-8 once more, undone once. */
export function undoMojibake(bytes: Uint8Array, from: number, to: number, into: Decoded): void {
  clear(into, to - from + 4)
  for (const character of Buffer.from(bytes.buffer, bytes.byteOffset + from, to - from).toString('utf8')) {
    const codePoint = character.codePointAt(0)!
    const byte = codePoint < 0x100 ? codePoint : WINDOWS_1252.indexOf(character)
    if (byte >= 0) into.bytes[into.length++] = byte
    else putUtf8(into, codePoint)
  }
}
// The characters at 0x80 to 0x9f, at their places.
const WINDOWS_1252 = `${'\0'.repeat(128)}€\0‚ƒ„…†‡ˆ‰Š‹Œ\0Ž\0\0‘’“”•–—˜™š›œ\0žŸ`

/**
 * Numbers of bytes or characters in a list: `[48, 55, 48]`, `30 37 30`, `0x30,0x37`, `U+06F0 U+06F7`. Returns where it ends, or
 * `at` when fewer than nine stand there.
 */
export function decodeList(bytes: Uint8Array, at: number, to: number, hex: boolean, into: Decoded): number {
  clear(into, 4 * (to - at) + 4)
  let count = 0
  let next = at
  let end = at
  while (next < to) {
    const mark = bytes[next + 1]! | 0x20
    if (hex && bytes[next] === 0x30 && mark === 0x78) next += 2
    else if (hex && (bytes[next]! | 0x20) === 0x75 && bytes[next + 1] === 0x2b) next += 2
    else if (hex && bytes[next] === BACKSLASH && mark === 0x78) next += 2
    const start = next
    let value = 0
    if (hex) while (next < to && HEX[bytes[next]!] !== 255) value = value * 16 + HEX[bytes[next++]!]!
    else
      while (next < to && bytes[next]! >= 0x30 && bytes[next]! <= 0x39)
        value = value * 10 + bytes[next++]! - 0x30
    const digits = next - start
    if (digits === 0 || (hex ? digits !== 2 && digits !== 4 : digits > 5)) break
    if (value < 0x100) into.bytes[into.length++] = value
    else putUtf8(into, value)
    count++
    end = next
    while (next < to && next < end + 4 && IN_LISTS[bytes[next]!] === 1) next++
    if (next === end) break
  }
  return count >= 9 ? end : at
}
const IN_LISTS = new Uint8Array(256)
for (const sign of ' ,:;-|._/\n\r\t"\'') IN_LISTS[sign.charCodeAt(0)] = 1

/** The same bytes as no `Buffer`: whoever reads both kinds in one loop reads each at half the speed. */
export const plainArray = ({ buffer, byteOffset, length }: Uint8Array): Uint8Array =>
  new Uint8Array(buffer, byteOffset, length)
