import { createHmac, hkdfSync } from 'node:crypto'
import { readFile, stat } from 'node:fs/promises'
import { TabibError } from '../../errors.ts'

/** What tabib's erasure secret is good for. Whoever lacks it can tell from no hash whom it means. */
export interface ErasureSecret {
  /** A key of 32 bytes for one purpose (HKDF-SHA-256, RFC 5869); the same for the same purpose. */
  derive(purpose: string): Buffer
  /** By which a subject of one tenant is remembered: 32 bytes (HMAC-SHA-256). */
  subjectHash(tenantId: string, subjectId: string): Buffer
  /** What stands in the subject's place in rows that are kept: a version 8 UUID (RFC 9562). */
  pseudonym(tenantId: string, subjectId: string): string
  /** Several, the first of which is `pseudonym`: what a late event creates anew needs a name that is not taken. */
  pseudonyms(tenantId: string, subjectId: string): string[]
  /** The same, of a subject who is known by hash alone. */
  pseudonymsOf(subjectHash: Buffer): string[]
}

const SHORTEST = 32
const PSEUDONYMS = 16

/**
 * Reads the secret that all processes of the platform share. To lose it is to forget every erasure; to leak it lets
 * whoever has both it and the database try ids against the hashes.
 *
 * @throws TabibError CONFIG_INVALID when none is configured, it is short, or others can read the file.
 */
export async function openErasureSecret(path: string | undefined): Promise<ErasureSecret> {
  const make = ['(umask 077; openssl rand -base64 32 > erasure.secret)']
  if (path === undefined) {
    throw new TabibError('CONFIG_INVALID', 'no erasure secret is configured', {
      suggestions: [...make, 'export TABIB_ERASURE_SECRET_FILE=$PWD/erasure.secret'],
    })
  }
  const [text, { mode }] = await Promise.all([readFile(path, 'utf8'), stat(path)]).catch((cause) => {
    throw new TabibError('CONFIG_INVALID', `the erasure secret ${path} cannot be read: ${cause.code}`, {
      cause,
      suggestions: make,
    })
  })
  if (mode & 0o027) {
    const seen = (mode & 0o777).toString(8)
    throw new TabibError(
      'CONFIG_INVALID',
      `${path} can be read by others, or written by a group (mode ${seen})`,
      {
        suggestions: [`chmod 600 ${path}`],
      },
    )
  }
  const bytes = Buffer.from(text.trim())
  if (bytes.length < SHORTEST) {
    throw new TabibError(
      'CONFIG_INVALID',
      `the erasure secret in ${path} has ${bytes.length} characters; at least ${SHORTEST} are wanted`,
      { suggestions: make },
    )
  }
  return erasureSecret(bytes)
}

function erasureSecret(secret: Buffer): ErasureSecret {
  const derived = new Map<string, Buffer>()
  const derive = (purpose: string): Buffer => {
    const known = derived.get(purpose)
    if (known) return known
    const key = Buffer.from(hkdfSync('sha256', secret, 'tabib erasure', purpose, 32))
    derived.set(purpose, key)
    return key
  }
  const subjectHash = (tenantId: string, subjectId: string) =>
    createHmac('sha256', derive('subject')).update(`${tenantId}/${subjectId}`.toLowerCase()).digest()
  const pseudonymsOf = (hash: Buffer) => Array.from({ length: PSEUDONYMS }, (_, n) => uuidOf(derive, hash, n))
  return {
    derive,
    subjectHash,
    pseudonymsOf,
    pseudonym: (tenantId, subjectId) => uuidOf(derive, subjectHash(tenantId, subjectId), 0),
    pseudonyms: (tenantId, subjectId) => pseudonymsOf(subjectHash(tenantId, subjectId)),
  }
}

function uuidOf(derive: ErasureSecret['derive'], hash: Buffer, n: number): string {
  const bytes = createHmac('sha256', derive('pseudonym'))
    .update(hash)
    .update(String(n))
    .digest()
    .subarray(0, 16)
  bytes[6] = (bytes[6]! & 0x0f) | 0x80
  bytes[8] = (bytes[8]! & 0x3f) | 0x80
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')
}

/** How a subject is named to people: the first 12 hex digits of its hash, with a prefix. */
export const shortName = (subjectHash: Buffer): string =>
  `subject-${subjectHash.toString('hex').slice(0, 12)}`
