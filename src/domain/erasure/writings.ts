import { brotliCompressSync, deflateRawSync, deflateSync, gzipSync } from 'node:zlib'
import type { Identifier } from './identifier.ts'

/** A way in which somebody writes an identifier down. */
export interface Writing {
  name: string
  /** What stands in the text; undefined when the identifier is not written so. */
  write(identifier: Identifier): string | undefined
}

/** A way in which a system wraps text. */
export interface Encoding {
  name: string
  encode(text: string): string | Buffer
}

/**
 * The ways to write an identifier that are planted as canaries, to measure how many of those the scanner finds. It finds
 * others as well: they are samples of what it normalises, not a list that it goes by.
 */
export const WRITINGS: readonly Writing[] = [
  { name: 'as it is', write: ({ value }) => value },
  national('national', (groups) => groups.join('')),
  national('national, spaces', (groups) => groups.join(' ')),
  national('national, dashes', (groups) => groups.join('-')),
  national('national, dots', (groups) => groups.join('.')),
  national('national, no-break and thin spaces', ([area, ...rest]) => `${area}\u00a0${rest.join('\u2009')}`),
  international('international, spaces', (code, groups) => `+${code} ${groups.join(' ')}`),
  international('international, 00 and dashes', (code, groups) => `00${code}-${groups.join('-')}`),
  international('international, no plus', (code, groups) => `${code}${groups.join('')}`),
  international('international, trunk in brackets', (code, groups) => `+${code} (0)${groups.join(' ')}`),
  international(
    'international, bidi marks',
    (code, groups) => `\u202a+${code}\u200e${groups.join('\u200f ')}\u202c`,
  ),
  { name: 'Persian digits', write: (identifier) => inDigits(identifier, () => 0x6f0) },
  { name: 'Arabic-Indic digits', write: (identifier) => inDigits(identifier, () => 0x660) },
  {
    name: 'digits mixed',
    write: (identifier) => inDigits(identifier, (at) => [0x30, 0x6f0, 0x660][at % 3]!),
  },
  {
    name: 'fullwidth',
    write: ({ value }) => value.replace(/[!-~]/g, (sign) => String.fromCharCode(sign.charCodeAt(0) + 0xfee0)),
  },
  {
    name: 'case',
    write: ({ value }) => {
      const turned = [...value].map((sign, at) => (at % 2 ? sign.toLowerCase() : sign.toUpperCase())).join('')
      return turned === value ? undefined : turned
    },
  },
  {
    name: 'two fields',
    write(identifier) {
      if (identifier.kind === 'phone') {
        const number = nationalOf(identifier)
        return number && `"phone_prefix":"0${number.slice(0, 2)}","phone_rest":"${number.slice(2)}"`
      }
      const words = identifier.value.split(' ')
      return identifier.kind === 'name' && words.length === 2
        ? `"first_name":"${words[0]}","last_name":"${words[1]}"`
        : undefined
    },
  },
]

/** The encodings that canaries are planted in. */
export const ENCODINGS: readonly Encoding[] = [
  { name: 'none', encode: (text) => text },
  { name: 'URL', encode: encodeURIComponent },
  { name: 'URL twice', encode: (text) => encodeURIComponent(encodeURIComponent(text)) },
  { name: 'URL of a form', encode: (text) => `v=${new URLSearchParams({ v: text }).toString().slice(2)}` },
  { name: 'base64', encode: (text) => Buffer.from(text).toString('base64') },
  {
    name: 'base64 within longer text',
    encode: (text) => Buffer.from(`{"a":1,"to":"${text}","b":[2]}`).toString('base64'),
  },
  { name: 'base64 one byte on', encode: (text) => Buffer.from(`>${text}`).toString('base64') },
  { name: 'base64 two bytes on', encode: (text) => Buffer.from(`> ${text}`).toString('base64') },
  { name: 'base64url', encode: (text) => Buffer.from(text).toString('base64url') },
  {
    name: 'base64 twice',
    encode: (text) => Buffer.from(Buffer.from(text).toString('base64')).toString('base64'),
  },
  { name: 'base64 of gzip', encode: (text) => gzipSync(text).toString('base64') },
  { name: 'base64 of zlib', encode: (text) => deflateSync(text).toString('base64') },
  {
    name: 'base64 of deflate',
    encode: (text) => deflateRawSync(`{"to":"${text}"}`).toString('base64'),
  },
  {
    name: 'base64 of brotli',
    encode: (text) => brotliCompressSync(`{"to":"${text}","from":"clinic"}`).toString('base64'),
  },
  { name: 'base32', encode: base32 },
  { name: 'base32, small letters', encode: (text) => base32(text).toLowerCase().replace(/=+$/, '') },
  { name: 'base64 of UTF-16', encode: (text) => Buffer.from(text, 'utf16le').toString('base64') },
  { name: 'hex', encode: (text) => Buffer.from(text).toString('hex') },
  { name: 'hex, capitals, colons', encode: (text) => hexPairs(text).join(':').toUpperCase() },
  {
    name: 'hex, \\x',
    encode: (text) =>
      hexPairs(text)
        .map((pair) => `\\x${pair}`)
        .join(''),
  },
  { name: 'hex of UCS-2', encode: (text) => Buffer.from(text, 'utf16le').swap16().toString('hex') },
  { name: 'JSON string', encode: (text) => JSON.stringify(JSON.stringify(text)) },
  {
    name: 'JSON escapes',
    encode: (text) =>
      units(text)
        .map((unit) => `\\u${unit.toString(16).padStart(4, '0')}`)
        .join(''),
  },
  { name: 'HTML entities', encode: (text) => [...text].map((sign) => `&#${sign.codePointAt(0)};`).join('') },
  {
    name: 'quoted-printable',
    encode: (text) =>
      hexPairs(text)
        .map((pair) => `=${pair.toUpperCase()}`)
        .join(''),
  },
  { name: 'list of bytes', encode: (text) => JSON.stringify([...Buffer.from(text)]) },
  {
    name: 'list of bytes by index',
    encode: (text) => JSON.stringify(Object.fromEntries(Buffer.from(text).entries())),
  },
  { name: 'UTF-16', encode: (text) => Buffer.from(text, 'utf16le') },
]

/** RFC 4648, section 6. */
function base32(text: string): string {
  const bits = [...Buffer.from(text)].map((byte) => byte.toString(2).padStart(8, '0')).join('')
  const digits = bits.match(/.{1,5}/g) ?? []
  const signs = digits.map((five) => BASE32[Number.parseInt(five.padEnd(5, '0'), 2)]).join('')
  return signs.padEnd(Math.ceil(signs.length / 8) * 8, '=')
}
const BASE32 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'

const hexPairs = (text: string): string[] => Buffer.from(text).toString('hex').match(/../g) ?? []
const units = (text: string): number[] => Array.from({ length: text.length }, (_, at) => text.charCodeAt(at))

function nationalOf({ kind, value }: Identifier): string | undefined {
  return kind === 'phone' ? /^\+93(\d{9})$/.exec(value)?.[1] : undefined
}

const groupsOf = (number: string): string[] => [number.slice(0, 3), number.slice(3, 6), number.slice(6)]

function national(name: string, join: (groups: string[]) => string): Writing {
  return {
    name,
    write(identifier) {
      const number = nationalOf(identifier)
      if (number === undefined) return undefined
      const [area, ...rest] = groupsOf(number)
      return join([`0${area}`, ...rest])
    },
  }
}

function international(name: string, join: (code: string, groups: string[]) => string): Writing {
  return {
    name,
    write(identifier) {
      const number = nationalOf(identifier)
      return number && join('93', groupsOf(number))
    },
  }
}

function inDigits({ value }: Identifier, zero: (at: number) => number): string | undefined {
  return /\d/.test(value)
    ? value.replace(/\d/g, (digit, at) => String.fromCharCode(zero(at) + Number(digit)))
    : undefined
}
