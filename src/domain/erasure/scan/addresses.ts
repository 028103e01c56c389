import { domainToUnicode } from 'node:url'
import { foldText, latinOf } from '../characters.ts'
import { LONGEST } from '../identifier.ts'
import { DASH, FARTHEST_FIELD, IN_ADDRESS, textOf } from './bytes.ts'
import type { Findings } from './findings.ts'

/** E-mail addresses, as they are written, as people say them, as machines rewrite them, and in two fields. */
export class Addresses {
  readonly areSought: boolean
  readonly #findings: Findings
  /** The address that is looked up: at most twice the longest, whose characters may become eighteen each. */
  readonly #units = new Uint16Array(2048)

  constructor(findings: Findings) {
    this.#findings = findings
    this.areSought = findings.sought.some(({ form }) => form === 'e-mail')
  }

  /** An address around its @, which is at `at` and ends at `past`. */
  around(bytes: Uint8Array, at: number, past: number, from: number, to: number, depth: number): void {
    let start = at
    const first = Math.max(from, at - LONGEST)
    while (start > first && IN_ADDRESS[bytes[start - 1]!] !== 0) start--
    while (start < at && IN_ADDRESS[bytes[start]!] === 2) start++
    let end = past
    const last = Math.min(to, past + LONGEST)
    while (end < last && IN_ADDRESS[bytes[end]!] !== 0 && bytes[end] !== 0x2b && bytes[end] !== 0x25) end++
    while (end > past && IN_ADDRESS[bytes[end - 1]!] === 2) end--
    if (start === at || end === past) this.#loose(bytes, at, past, from, to, depth)
    if (start === at || end === past || end - start > 2 * LONGEST) return
    this.#rewritten(bytes, start, at, end, from, depth)
    const units = this.#units
    let length = 0
    let tag = -1
    for (let place = start; place < end && length >= 0; place++) {
      const byte = bytes[place]!
      if (byte >= 0x80) length = -1
      else {
        if (byte === 0x2b && tag < 0) tag = length
        units[length++] = byte >= 0x41 && byte <= 0x5a ? byte | 0x20 : byte
      }
    }
    if (length < 0) {
      const text = foldText(
        Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString('utf8'),
      ).replace(/。/g, '.')
      // Without the marks beside it, and without the words of another script that it is glued to.
      const addresses = new Set(
        [text, latinOf(text)].flatMap((text) =>
          [ADDRESS, ASCII_ADDRESS].flatMap((form) => form.exec(text)?.[0] ?? []),
        ),
      )
      for (const address of addresses) {
        for (length = 0; length < address.length; length++) units[length] = address.charCodeAt(length)
        this.#note(length, address.indexOf('+'), depth, start)
      }
    } else {
      this.#note(length, tag, depth, start)
      // With each letter thirteen on, and from its end on, as pages hide addresses from machines.
      if (this.#findings.isAnybodys || length > LONGEST) return
      for (let place = 0; place < length; place++) units[place] = turned(units[place]!)
      this.#findings.noteUnits('e-mail', units, 0, length, depth, start)
      for (let place = 0; place < length; place++) units[place] = turned(units[place]!)
      units.subarray(0, length).reverse()
      this.#findings.noteUnits('e-mail', units, 0, length, depth, start)
    }
  }

  /** The address in `units`, whose first plus is at `tag`. */
  #note(written: number, tag: number, depth: number, start: number): void {
    const units = this.#units
    let length = written
    if (length <= LONGEST) this.#findings.noteUnits('e-mail', units, 0, length, depth, start)
    const sign = units.indexOf(0x40)
    if (tag < 0 || tag > sign) return
    // What is written after a plus is the same mailbox.
    units.copyWithin(tag, sign, length)
    length -= sign - tag
    if (length <= LONGEST) this.#findings.noteUnits('e-mail', units, 0, length, depth, start)
  }

  /** An address with spaces or brackets around its @, or with its first part in quotes, or a comment behind it. */
  #loose(bytes: Uint8Array, at: number, past: number, from: number, to: number, depth: number): void {
    if (this.#findings.isAnybodys) return
    const text = (start: number, end: number) => textOf(bytes, start, end)
    const domain = /^[ \])}]{0,2}([a-z0-9][a-z0-9.-]*)/i.exec(text(past, Math.min(to, past + LONGEST)))?.[1]
    const local = /([a-z0-9._%+-]+)(?:\([^()]*\)|[ [({]{1,2}|\\?")?$/i.exec(
      text(Math.max(from, at - LONGEST), at),
    )?.[1]
    if (domain && local) this.#try(`${local}@${domain}`, depth, at)
  }

  /** What relays make of an address within another: `bounce+a.b=mail.example@…`, `SRS0=…=mail.example=a.b@…`, `a.b%mail.example@…`. */
  #rewritten(bytes: Uint8Array, start: number, at: number, end: number, from: number, depth: number): void {
    let percent = at - 1
    while (percent > start && bytes[percent] !== 0x25) percent--
    if (percent > start) {
      const local = textOf(bytes, start, percent)
      this.#try(`${local}@${textOf(bytes, percent + 1, at)}`, depth, start)
    }
    if (bytes[start - 1] === 0x3d) {
      const first = Math.max(from, start - LONGEST)
      const before = /[a-z0-9._+-]+$/i.exec(textOf(bytes, first, start - 1))?.[0] ?? ''
      const local = textOf(bytes, start, at)
      this.#try(`${local}@${before}`, depth, start)
      this.#try(`${before}@${local}`, depth, start)
      this.#try(`${before.slice(before.indexOf('+') + 1)}@${local}`, depth, start)
    }
    // As names of domains are written for machines (RFC 3492).
    for (let dash = at + 3; dash < end; dash++) {
      if (bytes[dash] !== DASH || bytes[dash - 1] !== DASH) continue
      const domain = domainToUnicode(textOf(bytes, at + 1, end))
      this.#try(`${textOf(bytes, start, at)}@${domain}`, depth, start)
      return
    }
  }

  /** `zarghuna [at] mail [dot] example` */
  spoken(bytes: Uint8Array, at: number, from: number, to: number, depth: number): void {
    if ((bytes[at + 1]! | 0x20) !== 0x61 && bytes[at + 1] !== 0x20) return
    const after = textOf(bytes, at, Math.min(to, at + LONGEST))
    const [sign, ...parts] = SPOKEN.exec(after) ?? []
    const local = /([a-z0-9._%+-]+) *$/i.exec(textOf(bytes, Math.max(from, at - LONGEST), at))?.[1]
    if (sign === undefined || local === undefined) return
    this.#try(`${local}@${parts[0]!.replace(/ *[[({<] *dot *[\])}>] *| dot /gi, '.')}`, depth, at)
  }

  /** `zarghuna at mail dot example` and `zarghuna_at_mail.example.json` */
  said(bytes: Uint8Array, from: number, to: number, depth: number): void {
    if (this.#findings.isAnybodys) return
    const text = Buffer.from(bytes.buffer, bytes.byteOffset + from, to - from)
    for (const end of SAID_ENDS) {
      for (let at = text.indexOf(end); at >= 0; at = text.indexOf(end, at + end.length)) {
        if (!SAID.test(textOf(text, Math.max(0, at - 4), at + end.length))) continue
        const around = textOf(text, Math.max(0, at - LONGEST), Math.min(text.length, at + LONGEST))
        for (const [, local, domain] of around.matchAll(SAID_ADDRESS)) {
          const hosts = domain!.replace(/ dot |-dot-|\{dot\}/gi, '.').split('.')
          // What stands before and behind may be the rest of a file's name.
          const words = local!.replace(/ dot /gi, '.').split('_').slice(-4)
          for (let n = hosts.length; n > 1; n--) {
            for (let word = 0; word < words.length; word++) {
              const address = `${words.slice(word).join('_')}@${hosts.slice(0, n).join('.')}`
              this.#try(address, depth, from + at)
            }
          }
        }
      }
    }
  }

  /** An address in two fields: `at` is behind the name of that of the domain. */
  split(bytes: Uint8Array, at: number, from: number, to: number, depth: number): void {
    // Users and hosts that are nobody's address stand in every log.
    if (this.#findings.isAnybodys) return
    const text = textOf(bytes, at, Math.min(to, at + LONGEST))
    const domain = /^[\s"'\\@]*([a-z0-9-]+(?:\.[a-z0-9-]+)+)/i.exec(text)?.[1]
    if (domain === undefined) return
    const around = textOf(bytes, Math.max(from, at - FARTHEST_FIELD), Math.min(to, at + FARTHEST_FIELD))
    for (const [, local] of around.matchAll(LOCAL_PART)) this.#try(`${local}@${domain}`, depth, at)
  }

  /** An address that was put together. */
  #try(written: string, depth: number, at: number): void {
    const address = foldText(written).toLowerCase()
    if (address.length > LONGEST) return
    for (let unit = 0; unit < address.length; unit++) this.#units[unit] = address.charCodeAt(unit)
    this.#note(address.length, address.indexOf('+'), depth, at)
  }
}

/** Whether the name of a field that holds a domain ends at a sign after it: `"email_domain":`, `host=`, `<domain>`. */
export function endsDomain(bytes: Uint8Array, at: number): boolean {
  let end = at - 1
  if (bytes[end] === 0x22 || bytes[end] === 0x27) end--
  if (bytes[end] === 0x5c) end--
  // Most end with another letter.
  const word = DOMAIN_WORDS[bytes[end]! | 0x20]
  if (word === undefined) return false
  for (let n = 0; n < word.length; n++) if ((bytes[end - n]! | 0x20) !== word[n]) return false
  return true
}

/** By the last letter, from there. */
const DOMAIN_WORDS = new Array<Buffer | undefined>(256).fill(undefined)
for (const word of ['domain', 'host', 'suffix'])
  DOMAIN_WORDS[word.charCodeAt(word.length - 1)] = Buffer.from(word).reverse()

/** Fields in which the first part of an address may stand. */
const LOCAL_PART =
  /(?:user|local|mail|account|login|prefix)[\w-]*["'\\]{0,3} ?[:=>] ?["'\\]{0,3}([a-z0-9][a-z0-9._%+-]{0,63})(?![@\w])/gi

/** How the words end that are said for signs, and the words: a search is as quick as its first letter is rare. */
const SAID_ENDS = ['T ', 'ot ', 't_', 't}', 't-'].map((end) => Buffer.from(end))
const SAID = /( dot | AT |[_{-]at[_}-])$/i
const SAID_ADDRESS =
  /([a-z0-9._%+-]+(?: dot [a-z0-9_+-]+)*)(?: at |_at_|-at-|\{at\})([a-z0-9-]+?(?:(?: dot |-dot-|\{dot\}|\.)[a-z0-9-]+?)+)(?![a-z0-9])/gi
const SPOKEN = /^[[({] *at *[\])}] *([a-z0-9-]+(?:(?: *[[({<] *dot *[\])}>] *| dot |\.)[a-z0-9-]+)*)/i

const ADDRESS = /[\p{L}0-9_](?:[\p{L}0-9._%+-]*[\p{L}0-9_])?@[\p{L}0-9](?:[\p{L}0-9._-]*[\p{L}0-9])?/u
const ASCII_ADDRESS = /[a-z0-9_](?:[a-z0-9._%+-]*[a-z0-9_])?@[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?/

/** ROT13 of a small letter. */
const turned = (unit: number): number =>
  unit < 0x61 || unit > 0x7a ? unit : 0x61 + ((unit - 0x61 + 13) % 26)
