import type { KeyStore } from '../../adapters/keystore/client.ts'
import { isDatabaseAway, type Queryable } from '../../adapters/postgres/client.ts'
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
}

/** Join tokens refused as forged lately. Those under a key that was revoked since count no more: it is dealt with. */
export async function forgedJoins({ db }: { db: Queryable }): Promise<ForgedJoins> {
  const rows = await db.query<{ outcome: string; n: number }>(
    `select outcome, sum(n)::float8 as n from tabib.join_token_count c
     where minute > clock_timestamp() - make_interval(mins => $1) and outcome = any($2)
       and not exists (select from tabib.key_revocation r where r.kid = c.kid)
     group by outcome order by outcome`,
    [WINDOW_MIN, FORGED],
  )
  const total = rows.reduce((sum, { n }) => sum + n, 0)
  return {
    perMinute: total / WINDOW_MIN,
    byReason: Object.fromEntries(rows.map(({ outcome, n }) => [outcome, n])),
  }
}

/** Keys in use whose signature held, within the last month, on a join token that nobody issued: each has leaked. */
export async function leakedKeys({ db }: { db: Queryable }): Promise<string[]> {
  const rows = await db.query<{ kid: string }>(
    `select distinct kid from tabib.join_token_count c
     where outcome = 'not-issued' and not exists (select from tabib.key_revocation r where r.kid = c.kid)
     order by kid`,
  )
  return rows.map(({ kid }) => kid)
}

/** Join tokens that opened a session after their time; reads the database's clock alone. */
export async function joinedAfterExpiry({ db }: { db: Queryable }): Promise<number> {
  const [row] = await db.query<{ n: number }>(
    'select count(*)::float8 as n from virtual_care.join_token where last_accepted_at > expires_at',
  )
  return row?.n ?? 0
}

export interface JoinTokenSigning {
  /** Undefined when this host cannot tell. */
  signable: boolean | undefined
  why: string
  /** Tokens that were asked for and could not be signed, in the last five minutes. */
  unsigned: number
}

/**
 * Whether the key that signs join tokens can sign now: it signs something that is no token. A host whose key store does
 * not hold the key, an operator's for example, cannot tell unless tokens are asked for in vain.
 */
export async function joinTokenSigning(systems: {
  db: Queryable
  config: { keys: { store: string | undefined } }
  keyStore(): Promise<KeyStore>
}): Promise<JoinTokenSigning> {
  const [row] = await systems.db.query<{ n: number }>(
    `select coalesce(sum(n), 0)::float8 as n from tabib.join_token_count
     where minute > clock_timestamp() - make_interval(mins => $1) and outcome = 'unsigned'`,
    [WINDOW_MIN],
  )
  const unsigned = row?.n ?? 0
  const unclear = (why: string) => ({ signable: unsigned > 0 ? false : undefined, why, unsigned })
  if (systems.config.keys.store === undefined) return unclear('no key store is configured here')
  try {
    const { key } = await activeKey(systems, JOIN_TOKEN)
    await (await systems.keyStore()).sign(key.ref, new TextEncoder().encode('tabib status'))
    return { signable: true, why: 'the active key signs', unsigned }
  } catch (error) {
    if (!(error instanceof TabibError) || isDatabaseAway(error)) throw error
    const away = error.code === 'KEY_STORE_UNREACHABLE' || error.code === 'NOT_AUTHORISED'
    return away ? { signable: false, why: error.message, unsigned } : unclear(error.message)
  }
}
