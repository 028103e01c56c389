import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto'
import type { Call } from './key.ts'

const NONCE_BYTES = 12
const TAG_BYTES = 16

/** How one call's answer lies in its table. */
export interface Shelf {
  /** What stands in the column `key`. */
  key: string
  write(body: string): string
  read(kept: string): string
}

/**
 * The place of a call's answer. An answer that is a secret (`Call.secret`) lies there under a name that is derived from the
 * key, encrypted (AES-256-GCM) with what else is derived from it (HKDF, RFC 5869): only who sends the key again can read it,
 * and the database never learns the key.
 */
export function shelfOf({ secret, tenantId, route, key }: Call): Shelf {
  if (!secret) return { key, write: (body) => body, read: (kept) => kept }
  const derived = Buffer.from(hkdfSync('sha256', key, `${tenantId} ${route}`, 'tabib idempotency answer', 64))
  const [name, secretKey] = [derived.subarray(0, 32).toString('hex'), derived.subarray(32)]
  return {
    key: name,
    write(body) {
      const nonce = randomBytes(NONCE_BYTES)
      const cipher = createCipheriv('aes-256-gcm', secretKey, nonce)
      const text = Buffer.concat([cipher.update(body, 'utf8'), cipher.final()])
      return Buffer.concat([nonce, text, cipher.getAuthTag()]).toString('base64')
    },
    read(kept) {
      const bytes = Buffer.from(kept, 'base64')
      const decipher = createDecipheriv('aes-256-gcm', secretKey, bytes.subarray(0, NONCE_BYTES))
      decipher.setAuthTag(bytes.subarray(-TAG_BYTES))
      const text = decipher.update(bytes.subarray(NONCE_BYTES, -TAG_BYTES))
      return Buffer.concat([text, decipher.final()]).toString()
    },
  }
}
