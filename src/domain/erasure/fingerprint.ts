import { createHmac, createSecretKey, hkdfSync, type KeyObject } from 'node:crypto'
import {
  type Canonical,
  canonicalForms,
  FORMS,
  type Form,
  type Identifier,
  type IdentifierKind,
  NUMBER_DIGITS,
} from './identifier.ts'
import { SipHash } from './siphash.ts'

/** What fingerprints of one tenant are made with. Another tenant's fingerprint of the same value is another. */
export interface FingerprintKey {
  /** Of the filter. */
  sip: SipHash
  /** Of the proof. */
  mac: KeyObject
}

/** Derives a tenant's key from the platform's erasure secret (RFC 5869). */
export function fingerprintKey(secret: Uint8Array, tenantId: string): FingerprintKey {
  const derive = (purpose: string, bytes: number) =>
    new Uint8Array(hkdfSync('sha256', secret, tenantId, `tabib erasure ${purpose}`, bytes))
  return { sip: new SipHash(derive('filter', 16)), mac: createSecretKey(derive('proof', 32)) }
}

/**
 * An identifier as it is remembered, 34 bytes: its form; how many characters it has and how many of them are digits, which
 * spares hashing all words of other lengths; how many digits a word ends with; a SipHash of it (of a number and of such a word:
 * of its last nine digits) that filters; and 22 bytes of an HMAC-SHA-256 that prove.
 * Nothing else is kept of an identifier; a phone number could be found from any hash without a key by trying them all.
 */
export type Fingerprint = Buffer

export interface Fingerprints {
  fingerprints: { kind: IdentifierKind; fingerprint: Fingerprint }[]
  /** Identifiers that nothing could find among other text: too short, or not of their kind. Never the value. */
  unsearchable: { kind: IdentifierKind; why: string }[]
}

/** @param country Calling code of phone numbers that are written without one; Afghanistan's, when left out. */
export function fingerprintsOf(
  key: FingerprintKey,
  identifiers: readonly Identifier[],
  { country = '93' }: { country?: string } = {},
): Fingerprints {
  const found: Fingerprints = { fingerprints: [], unsearchable: [] }
  for (const identifier of identifiers) {
    const { kind } = identifier
    const forms = canonicalForms(identifier, country)
    if (forms.length === 0) found.unsearchable.push({ kind, why: WHY[kind] })
    for (const form of forms) found.fingerprints.push({ kind, fingerprint: fingerprintOf(key, form) })
  }
  return found
}

const WHY: Record<IdentifierKind, string> = {
  phone: 'it is no phone number of 9 to 15 digits',
  'e-mail': 'it is no address of at most 100 characters',
  name: 'it is not two words of letters',
  'part of a name': 'it has fewer than three letters',
  'national-id': 'it has fewer than 4 or more than 18 digits',
  'record-number': 'it has fewer than 4 digits, or 3 with letters, or more than 18',
}

function fingerprintOf(key: FingerprintKey, canonical: Canonical): Fingerprint {
  const { form, value } = canonical
  const fingerprint = Buffer.alloc(34)
  fingerprint[0] = FORMS.indexOf(form)
  fingerprint[1] = value.length
  fingerprint[2] = value.replace(/[^0-9]/g, '').length
  const tail = form === 'word' ? tailOf(value) : undefined
  if (tail !== undefined) {
    fingerprint[3] = tail.length
    tagTail(key.sip, tail.length, Number(tail))
  } else if (form === 'word' || form === 'name' || form === 'e-mail') {
    const units = Uint16Array.from(value, (_, at) => value.charCodeAt(at))
    tagUnits(key.sip, form, units, 0, units.length)
  } else
    tagNumber(
      key.sip,
      form === 'labelled' ? value.length : NUMBER_DIGITS,
      Number(value.slice(-NUMBER_DIGITS)),
    )
  fingerprint.writeInt32LE(key.sip.low, 4)
  fingerprint.writeInt32LE(key.sip.high, 8)
  proofOf(key, canonical).copy(fingerprint, 12)
  return fingerprint
}

/** What a fingerprint says of its identifier's form; see `Fingerprint`. */
export function readFingerprint(fingerprint: Uint8Array) {
  const bytes = Buffer.from(fingerprint.buffer, fingerprint.byteOffset, fingerprint.byteLength)
  const form = FORMS[bytes[0] ?? -1]
  if (form === undefined || bytes.length !== 34) throw new RangeError('not a fingerprint of 34 bytes')
  return {
    form,
    length: bytes[1]!,
    digits: bytes[2]!,
    tail: bytes[3]!,
    low: bytes.readInt32LE(4),
    high: bytes.readInt32LE(8),
    proof: bytes.subarray(12),
  }
}

export function proofOf({ mac }: FingerprintKey, { form, value }: Canonical): Buffer {
  return createHmac('sha256', mac).update(`${form}:${value}`).digest().subarray(0, 22)
}

/** Leaves in `sip` the tag of a number: of its last nine digits, or of all when it is shorter. */
export function tagNumber(sip: SipHash, digits: number, value: number): void {
  const { block } = sip
  block[0] = value
  block[1] = digits
  block[2] = 0
  block[3] = 8 << 24
  sip.words(2)
}

/** The digits that a word ends with, the last nine of them; undefined when there are too few to look for it by them. */
function tailOf(word: string): string | undefined {
  const [tail = ''] = /\d*$/.exec(word) ?? []
  return tail.length < SHORTEST_TAIL ? undefined : tail.slice(-NUMBER_DIGITS)
}
export const SHORTEST_TAIL = 4

/** Leaves in `sip` the tag of a word that ends with so many digits: of nine, the same as a number's that does. */
export function tagTail(sip: SipHash, digits: number, value: number): void {
  tagNumber(sip, digits === NUMBER_DIGITS ? digits : digits + 32, value)
}

/** Leaves in `sip` the tag of UTF-16 code units. */
export function tagUnits(sip: SipHash, form: Form, units: Uint16Array, from: number, to: number): void {
  const { block } = sip
  const length = to - from
  const blocks = (length >> 2) + 1
  for (let at = 0; at < 2 * blocks; at++) {
    const unit = from + 2 * at
    block[at] = (unit < to ? units[unit]! : 0) | ((unit + 1 < to ? units[unit + 1]! : 0) << 16)
  }
  block[2 * blocks] = FORMS.indexOf(form)
  block[2 * blocks + 1] = (2 * length) << 24
  sip.words(blocks + 1)
}
