import { randomUUID } from 'node:crypto'
import * as z from 'zod'
import type { KeyStore } from '../../adapters/keystore/client.ts'
import {
  type Database,
  isDatabaseAway,
  type Queryable,
  type Transaction,
} from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { signToken } from '../keys/sign.ts'
import type { Tally } from './tally.ts'
import { asTenant } from './tenant.ts'

/** What makes a token one that opens a session, and no other kind (RFC 8725 sections 3.9 and 3.11). */
export const JOIN_TOKEN = {
  purpose: 'join-token',
  typ: 'join+jwt',
  issuer: 'virtual-care',
  audience: 'virtual-care-session',
} as const

const LIFETIME_S = 120

/** Beside `iss`, `aud`, `iat` and `exp`. */
export const joinClaims = z.object({
  jti: z.uuid(),
  /** The participant. */
  sub: z.uuid(),
  tenant_id: z.uuid(),
  session_id: z.uuid(),
})

/** One participant's place in one session of one tenant. */
export interface Seat {
  tenantId: string
  sessionId: string
  participantId: string
}

/** A participant may join until the session is over. */
export const JOINABLE = ['scheduled', 'waiting', 'active']

/** A join token that is signed, and opens nothing until it is on record. */
export interface SignedJoinToken {
  jti: string
  token: string
  kid: string
  expiresAt: Date
}

/**
 * Signs a token that opens one session to one participant for two minutes, once `recordJoinToken` has put it on record.
 * Outside of a transaction: signing may wait for a KMS.
 *
 * @throws TabibError NOT_FOUND for a session or participant that the tenant does not have, SESSION_ENDED;
 * KEY_STORE_UNREACHABLE whatever keeps it from being signed.
 */
export async function prepareJoinToken(
  { db, tally, ...systems }: { db: Database; keyStore(): Promise<KeyStore>; tally: Tally },
  ask: Seat,
): Promise<SignedJoinToken> {
  const { tenantId, sessionId, participantId } = ask
  await asTenant(db, tenantId, async (tx) => {
    const [session] = await tx.query<{ status: string }>(
      `select status from virtual_care.session s
       where id = $1 and exists (
         select from virtual_care.participant p
         where p.tenant_id = s.tenant_id and p.session_id = s.id and p.id = $2)`,
      [sessionId, participantId],
    )
    if (session === undefined) {
      throw new TabibError('NOT_FOUND', `no session ${sessionId} with a participant ${participantId}`)
    }
    if (!JOINABLE.includes(session.status)) throw sessionEnded(sessionId, session.status)
  })
  return signJoinToken({ db, ...systems }, ask).catch((error) => {
    if (error instanceof TabibError && error.code === 'KEY_STORE_UNREACHABLE') tally.count('unsigned')
    throw error
  })
}

/**
 * Puts a token on record, in a transaction of its tenant's, before the caller has it: what is not on record was forged.
 * Each makes another; those before stay good until they expire.
 *
 * @throws TabibError KEYS_UNAVAILABLE when its key was revoked while it signed.
 */
export async function recordJoinToken(
  tx: Transaction,
  { jti, kid, expiresAt }: SignedJoinToken,
  { tenantId, sessionId, participantId }: Seat,
): Promise<void> {
  if (await isRevoked(tx, kid)) {
    throw new TabibError('KEYS_UNAVAILABLE', 'the key was revoked while it signed; ask again')
  }
  await tx.query(
    `insert into virtual_care.join_token (jti, tenant_id, session_id, participant_id, kid, expires_at)
     values ($1, $2, $3, $4, $5, $6)`,
    [jti, tenantId, sessionId, participantId, kid, expiresAt],
  )
}

/**
 * Whether a key was revoked. Until the transaction ends `evictRevoked` waits, so what is written after a no is put out
 * with the rest.
 */
export async function isRevoked(tx: Transaction, kid: string): Promise<boolean> {
  await tx.query('select pg_advisory_xact_lock_shared(hashtext($1))', [kid])
  const revoked = await tx.query('select kid from tabib.key_revocation where kid = $1', [kid])
  return revoked.length > 0
}

/**
 * Forgets tokens that expired ninety days ago, a few thousand at a time; those of a revoked key stay, since they are
 * what was accepted under it.
 */
export async function forgetJoinTokens({ db }: { db: Queryable }): Promise<void> {
  await db.query(
    `delete from virtual_care.join_token where jti in (
       select jti from virtual_care.join_token t
       where expires_at < now() - interval '90 days'
         and not exists (select from tabib.key_revocation r where r.kid = t.kid)
       order by expires_at limit 5000)`,
  )
}

/**
 * Signs a join token and records nothing: by itself it opens no session.
 * @throws TabibError KEY_STORE_UNREACHABLE, POSTGRES_UNREACHABLE
 */
export async function signJoinToken(
  { db, keyStore }: { db: Database; keyStore(): Promise<KeyStore> },
  { tenantId, sessionId, participantId }: Seat,
): Promise<SignedJoinToken> {
  const { purpose, typ, issuer, audience } = JOIN_TOKEN
  const jti = randomUUID()
  const claims = {
    iss: issuer,
    aud: audience,
    jti,
    sub: participantId,
    tenant_id: tenantId,
    session_id: sessionId,
  }
  try {
    const systems = { db, keyStore: await keyStore() }
    return { jti, ...(await signToken(systems, { purpose, typ, lifetimeS: LIFETIME_S, claims })) }
  } catch (cause) {
    if (!(cause instanceof TabibError) || isDatabaseAway(cause)) throw cause
    // No key, a key that the store has lost, a refused secret: to who waits for a token they are one.
    throw new TabibError('KEY_STORE_UNREACHABLE', `join tokens cannot be signed: ${cause.message}`, {
      cause,
      suggestions: ['tabib status virtual-care/F13', ...cause.suggestions],
      ref: 'runbooks/virtual-care/f13-kms-unavailable.md',
    })
  }
}

export const sessionEnded = (sessionId: string, status: string) =>
  new TabibError('SESSION_ENDED', `session ${sessionId} is ${status}`, { context: { sessionId, status } })
