import { randomBytes } from 'node:crypto'
import { base64url } from 'jose'
import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { seal, unseal } from './sealed.ts'
import type { ErasureSecret } from './secret.ts'

/** Whose value is sealed. */
export interface OfSubject {
  tenantId: string
  subjectId: string
}

/** What stands in a message in place of a personal value: `{ "enc": "…" }`. */
export interface Envelope {
  /** Base64url of IV, ciphertext and tag: AES-256-GCM under the subject's key. */
  enc: string
}

/**
 * Seals a personal value for a message, under the subject's own key, which is made on first use. Once that key is
 * destroyed no copy of the message can be read any more, wherever it lies. Work in a transaction of the tenant's.
 *
 * @throws TabibError SUBJECT_ERASED when the subject's key was destroyed: nothing may be sealed for them again.
 */
export async function sealForSubject(
  tx: Queryable,
  { secret }: { secret: ErasureSecret },
  of: OfSubject,
  value: unknown,
): Promise<Envelope> {
  const hash = secret.subjectHash(of.tenantId, of.subjectId)
  const [held] = await tx.query<{ wrapped: Buffer | null }>(
    'select wrapped from tabib.subject_key where tenant_id = $1 and subject_hash = $2',
    [of.tenantId, hash],
    'subject_key',
  )
  const key = held ? openKey(secret, of, hash, held.wrapped) : await makeKey(tx, secret, of, hash)
  return { enc: base64url.encode(seal(key, Buffer.from(JSON.stringify(value)), of.tenantId)) }
}

/**
 * What `sealForSubject` sealed.
 * @throws TabibError SUBJECT_ERASED when the subject's key was destroyed, NOT_FOUND when there never was one.
 */
export async function openForSubject(
  tx: Queryable,
  { secret }: { secret: ErasureSecret },
  of: OfSubject,
  { enc }: Envelope,
): Promise<unknown> {
  const hash = secret.subjectHash(of.tenantId, of.subjectId)
  const [held] = await tx.query<{ wrapped: Buffer | null }>(
    'select wrapped from tabib.subject_key where tenant_id = $1 and subject_hash = $2',
    [of.tenantId, hash],
    'subject_key',
  )
  if (!held) throw new TabibError('NOT_FOUND', 'nothing was ever sealed for this subject')
  const key = openKey(secret, of, hash, held.wrapped)
  return JSON.parse(unseal(key, Buffer.from(base64url.decode(enc)), of.tenantId).toString())
}

async function makeKey(tx: Queryable, secret: ErasureSecret, of: OfSubject, hash: Buffer): Promise<Buffer> {
  const key = randomBytes(32)
  const wrapped = seal(wrappingKey(secret, of), key, hash.toString('hex'))
  await tx.query(
    'insert into tabib.subject_key (tenant_id, subject_hash, wrapped) values ($1, $2, $3) on conflict do nothing',
    [of.tenantId, hash, wrapped],
  )
  // Whoever came first made it.
  const [made] = await tx.query<{ wrapped: Buffer | null }>(
    'select wrapped from tabib.subject_key where tenant_id = $1 and subject_hash = $2',
    [of.tenantId, hash],
    'subject_key',
  )
  return openKey(secret, of, hash, made!.wrapped)
}

function openKey(secret: ErasureSecret, of: OfSubject, hash: Buffer, wrapped: Buffer | null): Buffer {
  if (wrapped === null) {
    throw new TabibError('SUBJECT_ERASED', 'the key of this subject was destroyed: they have been erased')
  }
  return unseal(wrappingKey(secret, of), wrapped, hash.toString('hex'))
}

const wrappingKey = (secret: ErasureSecret, { tenantId }: OfSubject): Buffer =>
  secret.derive(`subject-keys/${tenantId}`)
