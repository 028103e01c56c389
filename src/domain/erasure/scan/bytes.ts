export const NEWLINE = 10
export const COLON = 0x3a
export const DASH = 0x2d

/** Bytes of text that an encoding must hold to be looked into. */
export const SHORTEST_TEXT = 9

/** What two pieces share where a line goes on in the next: more than an identifier in any encoding. */
export const SHARED = 2048

/** Bytes from the end of a line of base64 to the next line of it. */
export const WIDEST_INDENT = 20

/** Bytes between two fields of one record. */
export const FARTHEST_FIELD = 600

/** Of an address. 1: within; 2: within, but neither at the beginning nor at the end. */
export const IN_ADDRESS = new Uint8Array(256).fill(1, 0x80)
for (const sign of '.-+%') IN_ADDRESS[sign.charCodeAt(0)] = 2
IN_ADDRESS[0x5f] = 1

/** ASCII letters, small, and figures; `BEYOND_ASCII` for what a table must tell; 0: nothing of a word. */
export const ASCII_WORD = new Uint8Array(256).fill(255, 0x80)
export const BEYOND_ASCII = 255

/** 1: a small letter; 2: a capital; with 8, one that is no hex digit; 0: a figure. */
export const CASE = new Uint8Array(256).fill(255)
export const NO_CASE = 255
export const BEYOND_HEX = 8

for (const sign of '0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ') {
  const [byte, small] = [sign.charCodeAt(0), sign.toLowerCase()]
  IN_ADDRESS[byte] = 1
  ASCII_WORD[byte] = small.charCodeAt(0)
  CASE[byte] = sign < 'A' ? 0 : (sign < 'a' ? 2 : 1) | (small > 'f' ? BEYOND_HEX : 0)
}

/** What indents a line, or quotes it. */
export const INDENTS = new Uint8Array(256)
for (const sign of ' \t>#*/') INDENTS[sign.charCodeAt(0)] = 1

export const isFigure = (byte: number | undefined): boolean =>
  byte !== undefined && byte >= 0x30 && byte <= 0x39

/** The code point that begins here, in UTF-8; `BROKEN` for what is none. */
export function codePointAt(bytes: Uint8Array, at: number, to: number): number {
  const byte = bytes[at]!
  const size = byte < 0xc2 || byte > 0xf4 ? 0 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4
  if (size === 0 || at + size > to) return BROKEN
  const two = bytes[at + 1]! ^ 0x80
  if (size === 2) return two < 64 ? ((byte & 31) << 6) | two : BROKEN
  const three = bytes[at + 2]! ^ 0x80
  if (size === 3) return (two | three) < 64 ? ((byte & 15) << 12) | (two << 6) | three : BROKEN
  const four = bytes[at + 3]! ^ 0x80
  return (two | three | four) < 64 ? ((byte & 7) << 18) | (two << 12) | (three << 6) | four : BROKEN
}

/** Of no size that fits: whoever steps by it goes on with the next byte. */
const BROKEN = 0

/** In bytes of UTF-8. */
export const sizeOf = (codePoint: number): number =>
  codePoint < 0x80 ? 1 : codePoint < 0x800 ? 2 : codePoint < 0x10000 ? 3 : 4

/** As Latin-1. */
export const textOf = (bytes: Uint8Array, from: number, to: number): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset + from, Math.max(0, to - from)).toString('latin1')
