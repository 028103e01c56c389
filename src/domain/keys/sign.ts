import type { KeyStore, StoredKey } from '../../adapters/keystore/client.ts'
import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { signJws } from './jws.ts'

/** The key that signs for a purpose now, with the longest life that a token of it may have. */
export interface ActiveKey {
  key: StoredKey & { store: string | null }
  tokenLifetimeS: number
  /** Seconds since 1970, by the database's clock. */
  nowS: number
}

/** @throws TabibError NOT_FOUND when no key signs for the purpose. */
export async function activeKey(
  { db }: { db: Queryable },
  { purpose }: { purpose: string },
): Promise<ActiveKey> {
  const [found] = await db.query<ActiveKey['key'] & { tokenLifetimeS: number; nowS: number }>(
    `select ref, store, algorithm, public_jwk as "publicJwk", token_lifetime_s as "tokenLifetimeS",
            floor(extract(epoch from clock_timestamp()))::float8 as "nowS"
     from tabib.signing_key where purpose = $1 and phase = 'activate'`,
    [purpose],
  )
  if (found === undefined) {
    throw new TabibError('NOT_FOUND', `no key signs for "${purpose}"`, {
      suggestions: [`tabib keys rotate --purpose ${purpose} --yes`, 'tabib keys list'],
      context: { purpose },
    })
  }
  const { tokenLifetimeS, nowS, ...key } = found
  return { key, tokenLifetimeS, nowS }
}

/**
 * Signs a JWT (RFC 7519) with the key that is active at this moment; `iat` and `exp` are by the database's clock. The
 * key is looked up each time: a signer that kept one would go on signing with it while it drains.
 *
 * @throws TabibError NOT_FOUND without an active key, OVERLAP_TOO_SHORT for a life that rotations do not wait out,
 * KEY_STORE_UNREACHABLE, KEY_ELSEWHERE.
 */
export async function signToken(
  { db, keyStore }: { db: Queryable; keyStore: KeyStore },
  ask: { purpose: string; typ: string; lifetimeS: number; claims: Record<string, unknown> },
): Promise<{ token: string; kid: string; expiresAt: Date }> {
  const { key, tokenLifetimeS, nowS } = await activeKey({ db }, ask)
  if (ask.lifetimeS > tokenLifetimeS) {
    throw new TabibError(
      'OVERLAP_TOO_SHORT',
      `a ${ask.purpose} token may live ${tokenLifetimeS} s, and ${ask.lifetimeS} s were asked for: its key could be retired before it expires`,
      { suggestions: [`tabib keys rotate --purpose ${ask.purpose} --token-lifetime <duration>`] },
    )
  }
  const exp = nowS + ask.lifetimeS
  const token = await signJws({ keyStore }, { key, typ: ask.typ, payload: { ...ask.claims, iat: nowS, exp } })
  return { token, kid: key.publicJwk.kid, expiresAt: new Date(exp * 1_000) }
}
