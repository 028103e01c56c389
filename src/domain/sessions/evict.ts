import type { Database, Queryable, Transaction } from '../../adapters/postgres/client.ts'
import { JOINABLE } from './join-token.ts'

/** What was put out because a key was revoked. */
export interface Eviction {
  kid: string
  /** Tokens that open nothing any more. */
  tokens: number
  /** Sessions that were not over: everybody in them is put out, and may come back with a token of the new key. */
  sessions: { tenantId: string; sessionId: string }[]
}

/**
 * Revokes the sessions that were opened, or could be, under revoked keys: every token of theirs ends, whatever signed
 * it, their version moves, and `virtual-care.evt.session.evicted` tells whoever carries the video to disconnect all.
 * Works from what the rows say, so it may be run again after any interruption, and does nothing twice.
 */
export async function evictRevoked({ db }: { db: Database }): Promise<Eviction[]> {
  const due = await db.query<{ kid: string }>(
    `select kid from tabib.key_revocation r
     where exists (select from virtual_care.join_token t where t.kid = r.kid and t.revoked_at is null)
     order by revoked_at`,
  )
  const evictions: Eviction[] = []
  for (const { kid } of due) evictions.push(await db.transaction((tx) => evict(tx, kid)))
  return evictions
}

async function evict(tx: Transaction, kid: string): Promise<Eviction> {
  // Waits for who has not seen the revocation; see `isRevoked`.
  await tx.query('select pg_advisory_xact_lock(hashtext($1))', [kid])
  const revoked = await tx.query<{ tenantId: string; sessionId: string }>(
    `update virtual_care.join_token t set revoked_at = clock_timestamp()
     where revoked_at is null and exists (
       select from virtual_care.join_token own
       where own.kid = $1 and own.tenant_id = t.tenant_id and own.session_id = t.session_id and own.revoked_at is null)
     returning tenant_id as "tenantId", session_id as "sessionId"`,
    [kid],
  )
  const sessions = await tx.query<{ tenantId: string; sessionId: string }>(
    `update virtual_care.session set version = version + 1
     where id = any($1) and status = any($2)
     returning tenant_id as "tenantId", id as "sessionId"`,
    [[...new Set(revoked.map(({ sessionId }) => sessionId))], JOINABLE],
  )
  await tx.query(
    `insert into virtual_care.outbox (tenant_id, aggregate_type, aggregate_id, type, data)
     select tenant_id, 'session', session_id::text, 'evicted',
            jsonb_build_object('sessionId', session_id, 'reason', 'key-revoked', 'kid', $3::text)
     from unnest($1::uuid[], $2::uuid[]) as evicted (tenant_id, session_id)`,
    [sessions.map(({ tenantId }) => tenantId), sessions.map(({ sessionId }) => sessionId), kid],
  )
  return { kid, tokens: revoked.length, sessions }
}

/** Sessions that are not over and had a token of a key, whoever put everybody out of them. */
export function sessionsUnder(
  { db }: { db: Queryable },
  { kid }: { kid: string },
): Promise<Eviction['sessions']> {
  return db.query(
    `select tenant_id as "tenantId", id as "sessionId" from virtual_care.session s
     where status = any($2) and exists (
       select from virtual_care.join_token t where t.kid = $1 and t.tenant_id = s.tenant_id and t.session_id = s.id)
     order by id`,
    [kid, JOINABLE],
  )
}

/** One token that was accepted under a key: ids and times, for the forensic review. */
export interface Acceptance {
  jti: string
  tenantId: string
  sessionId: string
  participantId: string
  issuedAt: Date
  expiresAt: Date
  firstAcceptedAt: Date
  lastAcceptedAt: Date
  acceptances: number
}

/** Every token that was accepted under a key, in the order in which they first were. */
export function acceptedUnder({ db }: { db: Queryable }, { kid }: { kid: string }): Promise<Acceptance[]> {
  return db.query<Acceptance>(
    `select jti, tenant_id as "tenantId", session_id as "sessionId", participant_id as "participantId",
            issued_at as "issuedAt", expires_at as "expiresAt", first_accepted_at as "firstAcceptedAt",
            last_accepted_at as "lastAcceptedAt", acceptances
     from virtual_care.join_token where kid = $1 and acceptances > 0
     order by first_accepted_at, jti`,
    [kid],
  )
}
