import { createHash } from 'node:crypto'
import type { JWK } from 'jose'
import * as z from 'zod'
import { publicMembers, SIGNING_ALGORITHMS } from '../../adapters/keystore/client.ts'
import type { Queryable } from '../../adapters/postgres/client.ts'

/** A JWK Set (RFC 7517 section 5) with two members of our own, which other readers pass over. */
export interface KeySet {
  keys: (JWK & { kid: string })[]
  /** Ids of keys whose tokens are refused at once, whatever else holds. */
  revoked: string[]
  /** A JWS by each key: who verifies it holds that key and can use it. It is no token, and never expires. */
  probes: string[]
}

/** A key set that another process wrote. */
export const keySetSchema = z.looseObject({
  keys: z.array(z.looseObject({ kid: z.string(), kty: z.string(), alg: z.enum(SIGNING_ALGORITHMS) })),
  revoked: z.array(z.string()).default([]),
  probes: z.array(z.string()).default([]),
})

/** Keeps a probe from passing for a token (RFC 8725 section 3.11). */
export const PROBE_TYPE = 'tabib-probe+jws'

/** What verifiers may know of a purpose's keys. Public members alone; the same keys always in the same order. */
export async function publishedKeys(
  { db }: { db: Queryable },
  { purpose }: { purpose: string },
): Promise<KeySet> {
  // One statement, so that a revocation never shows a key as neither published nor revoked.
  const rows = await db.query<{ kid: string; publicJwk: JWK; probe: string; revoked: boolean }>(
    `select kid, public_jwk as "publicJwk", probe, phase = 'revoked' as revoked
     from tabib.signing_key
     where purpose = $1 and phase in ('publish', 'attest', 'activate', 'drain', 'revoked')
     order by kid collate "C"`,
    [purpose],
  )
  const held = rows.filter(({ revoked }) => !revoked)
  return {
    keys: held.map(({ kid, publicJwk }) => ({
      ...publicMembers(publicJwk),
      kid,
      alg: publicJwk.alg!,
      use: 'sig',
    })),
    revoked: rows.filter(({ revoked }) => revoked).map(({ kid }) => kid),
    probes: held.map(({ probe }) => probe),
  }
}

/** What `tabib.jwks_hash` gives for the same keys: SHA-256 of their ids, sorted and joined by commas, in hex. */
export function jwksHash(kids: Iterable<string>): string {
  return createHash('sha256')
    .update([...kids].sort().join(','))
    .digest('hex')
}
