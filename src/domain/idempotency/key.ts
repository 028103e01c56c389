import { createHash } from 'node:crypto'
import { TabibError } from '../../errors.ts'
import type { Service } from '../../service.ts'
import { canonicalJson } from '../audit/canonical-json.ts'

/** One write that somebody asks for, and may ask for again. */
export interface Call {
  /** Whose tables hold its effect. */
  service: Service
  tenantId: string
  /** Method and path, with names in place of ids: `POST /api/v1/billing/payments`. */
  route: string
  key: string
  /** See `fingerprintOf`. */
  fingerprint: Buffer
  /** What it is answered with opens something: it is kept so that only who has the key can read it, and in no cache. */
  secret?: boolean
}

/** What was answered: the status and the body, byte for byte. */
export interface Answer {
  status: number
  body: string
}

/**
 * The key in an Idempotency-Key header: a String of RFC 8941, as draft-ietf-httpapi-idempotency-key-header-07 has it
 * (`"8e03978e"`), or the same characters bare, as most clients send it; both are one key. Undefined without the header.
 *
 * @throws TabibError IDEMPOTENCY_KEY_INVALID for anything else: empty, too long, two keys, parameters.
 */
export function parseKey(header: string | string[] | undefined): string | undefined {
  if (header === undefined) return undefined
  const text = String(header).trim()
  const quoted = /^"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"$/.exec(text)?.[1]?.replace(/\\(.)/g, '$1')
  const key = quoted ?? /^[\w.~:/+=@-]+$/.exec(text)?.[0]
  if (key !== undefined && key.length > 0 && key.length <= 255) return key
  throw new TabibError(
    'IDEMPOTENCY_KEY_INVALID',
    `Idempotency-Key is one string of 1 to 255 printable ASCII characters, such as "8e03978e-40d5-43dd-bc93-6e4b6c4b2a34"`,
  )
}

/** SHA-256 of what is asked for: equal for bodies that differ in the order of members, white space and escapes alone. */
export function fingerprintOf(params: unknown, body: unknown): Buffer {
  return createHash('sha256')
    .update(canonicalJson([params, body]))
    .digest()
}

/** @throws TabibError IDEMPOTENCY_KEY_REUSED when the key came with something else before. */
export function assertSameRequest(
  { key, fingerprint }: Pick<Call, 'key' | 'fingerprint'>,
  first: { fingerprint: Buffer },
): void {
  if (fingerprint.equals(first.fingerprint)) return
  throw new TabibError(
    'IDEMPOTENCY_KEY_REUSED',
    `Idempotency-Key "${key}" came with another request before; a new request takes a new key`,
  )
}
