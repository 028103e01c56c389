import type { KeyStore } from '../../adapters/keystore/client.ts'
import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { activeKey } from '../keys/sign.ts'
import { JOIN_TOKEN } from './join-token.ts'

/** Refusals that honest callers do not meet: no key of ours, a signature that does not hold, a token never issued. */
const FORGED = ['unknown-key', 'signature', 'not-issued']
const WINDOW_MIN = 5

export interface ForgedJoins {
  /** Refusals a minute, over the last five. */
  perMinute: number
  byReason: Record<string, number>
  /** Keys whose signature holds on tokens that were never issued: each has leaked. */
  leaked: string[]
}

/** Join tokens refused as forged lately. Those under a key that was revoked since count no more: it is dealt with. */
export async function forgedJoins({ db }: { db: Queryable }): Promise<ForgedJoins> {
  const rows = await db.query<{ outcome: string; kid: string; n: number }>(
    `select outcome, kid, sum(n)::float8 as n from tabib.join_token_count c
     where minute > clock_timestamp() - make_interval(mins => $1) and outcome = any($2)
       and not exists (select from tabib.key_revocation r where r.kid = c.kid)
     group by outcome, kid order by outcome, kid`,
    [WINDOW_MIN, FORGED],
  )
  const byReason: Record<string, number> = {}
  for (const { outcome, n } of rows) byReason[outcome] = (byReason[outcome] ?? 0) + n
  const total = rows.reduce((sum, { n }) => sum + n, 0)
  const leaked = rows.filter(({ outcome }) => outcome === 'not-issued').map(({ kid }) => kid)
  return { perMinute: total / WINDOW_MIN, byReason, leaked }
}

/** Join tokens that opened a session after their time; reads the database's clock alone. */
export async function joinedAfterExpiry({ db }: { db: Queryable }): Promise<number> {
  const [row] = await db.query<{ n: number }>(
    'select count(*)::float8 as n from virtual_care.join_token where last_accepted_at > expires_at',
  )
  return row?.n ?? 0
}

/**
 * Whether the key that signs join tokens can sign now: it signs something that is no token. Undefined while nothing
 * issues join tokens: they have no key, or this host has no key store.
 */
export async function joinTokensSignable(systems: {
  db: Queryable
  config: { keys: { store: string | undefined } }
  keyStore(): Promise<KeyStore>
}): Promise<{ signable: boolean; why: string | undefined } | undefined> {
  if (systems.config.keys.store === undefined) return undefined
  const active = await activeKey(systems, JOIN_TOKEN).catch((error) => {
    if (error instanceof TabibError && error.code === 'NOT_FOUND') return undefined
    throw error
  })
  if (active === undefined) return undefined
  try {
    await (await systems.keyStore()).sign(active.key.ref, new TextEncoder().encode('tabib status'))
    return { signable: true, why: undefined }
  } catch (error) {
    if (!(error instanceof TabibError)) throw error
    return { signable: false, why: error.message }
  }
}
