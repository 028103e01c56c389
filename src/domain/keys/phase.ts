import type { JWK } from 'jose'
import type { SigningAlgorithm } from '../../adapters/keystore/client.ts'
import type { Queryable, Transaction } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'

/**
 * A key's life. It is published from `publish` to `drain` and signs in `activate`; `retire` and `revoked` are ends.
 * After Teleport's rotation of certificate authorities, whose first phase makes new keys trusted before any is used.
 */
export const KEY_PHASES = ['prepare', 'publish', 'attest', 'activate', 'drain', 'retire', 'revoked'] as const
export type KeyPhase = (typeof KEY_PHASES)[number]

/** What a rotation is planned with and a key keeps for life; whole seconds. */
export interface KeyPolicy {
  /** How long the old key and the new one are both published, at the least. */
  overlapS: number
  /** How long a verifier may go on with a key set that it fetched; jose's remote key set: 600. */
  cacheAgeS: number
  /** How far clocks may differ. */
  skewS: number
  /** The longest life of a token. */
  tokenLifetimeS: number
  /** Every verifier attests what it holds, so that nobody's cache has to be waited for. */
  allAttest: boolean
}

export interface SigningKey extends KeyPolicy {
  kid: string
  purpose: string
  algorithm: SigningAlgorithm
  ref: string
  /** Which store holds the private half; null when it was made before that was kept. */
  store: string | null
  publicJwk: JWK & { kid: string }
  phase: KeyPhase
  /** When the phase was entered. */
  since: Date
  /** Seconds since then, by the database's clock. */
  sinceS: number
  /** Seconds since it was made. */
  ageS: number
  /** Seconds since it was first in the key set; null while it never was. */
  publishedS: number | null
  /** Why it never signs again. */
  barred: 'tainted' | 'rolled-back' | null
}

/** Keys in the order in which they were made; ended ones too when asked for. */
export function listKeys(
  { db }: { db: Queryable },
  { purpose, ended = false }: { purpose?: string | undefined; ended?: boolean } = {},
): Promise<SigningKey[]> {
  return db.query<SigningKey>(
    `select key.kid, purpose, algorithm, ref, store, public_jwk as "publicJwk", key.phase, since, barred,
            extract(epoch from clock_timestamp() - since)::float8 as "sinceS",
            extract(epoch from clock_timestamp() - made.entered_at)::float8 as "ageS",
            extract(epoch from clock_timestamp() - published_at)::float8 as "publishedS",
            overlap_s as "overlapS", cache_age_s as "cacheAgeS", skew_s as "skewS",
            token_lifetime_s as "tokenLifetimeS", all_attest as "allAttest"
     from tabib.signing_key key
     join lateral (
       select seq, entered_at from tabib.signing_key_phase p where p.kid = key.kid order by seq limit 1) made on true
     where ($1::text is null or purpose = $1) and ($2 or key.phase not in ('retire', 'revoked'))
     order by purpose, made.seq`,
    [purpose, ended],
  )
}

/** Moves a key on, unless it has left the phase it is expected in; says whether it moved. One statement. */
export async function enterPhase(
  db: Queryable,
  { kid, from, to, by }: { kid: string; from: readonly KeyPhase[]; to: KeyPhase; by: string },
): Promise<boolean> {
  const moved = await db.query(
    `with moved as (
       update tabib.signing_key
       set phase = $3, since = clock_timestamp(),
           published_at = case when $3 in ('publish', 'activate') then coalesce(published_at, clock_timestamp())
                               else published_at end
       where kid = $1 and phase = any($2) returning kid
     )
     insert into tabib.signing_key_phase (kid, phase, entered_by) select kid, $3, $4 from moved returning kid`,
    [kid, from, to, by],
  )
  return moved.length > 0
}

/** Waits until nobody else changes which key of a purpose signs, or will sign next; until the transaction's end. */
export async function lockKeys(tx: Transaction, purpose: string): Promise<void> {
  await tx.query(`select pg_advisory_xact_lock(hashtextextended('tabib.keys:' || $1, 0))`, [purpose])
}

/**
 * Makes a key sign, in one transaction with the one that signed until now, which drains. Nothing happens when it is
 * no longer in one of the phases given.
 */
export async function activateKey(
  tx: Transaction,
  { kid, purpose, from, by }: { kid: string; purpose: string; from: readonly KeyPhase[]; by: string },
): Promise<boolean> {
  await lockKeys(tx, purpose)
  const keys = await listKeys({ db: tx }, { purpose })
  if (!keys.some((key) => key.kid === kid && from.includes(key.phase) && key.barred === null)) return false
  for (const { kid: old, phase } of keys)
    if (phase === 'activate') await enterPhase(tx, { kid: old, from: [phase], to: 'drain', by })
  return enterPhase(tx, { kid, from, to: 'activate', by })
}

/** @throws TabibError USAGE for what cannot be the name of a purpose. */
export function assertPurpose(purpose: string): void {
  if (/^[a-z][a-z0-9-]{0,39}$/.test(purpose)) return
  throw new TabibError('USAGE', `"${purpose}" is no purpose: write lower-case words such as join-token`)
}
