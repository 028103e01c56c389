import type { Queryable } from '../../adapters/postgres/client.ts'
import { shortName } from './secret.ts'

export interface ErasureRequest {
  id: string
  tenantId: string
  tenant: string
  subject: string
  state: 'open' | 'watching' | 'complete'
  authority: string
  requestedAt: Date
  deadlineAt: Date
  /** How much of the time to the deadline is over, or was when it was complete: 1 is all of it. */
  deadlineUsed: number
  /** When everything is read for the last time. */
  watchUntil: Date | null
  completedAt: Date | null
  follows: string | null
  rowsAffected: bigint
  /** Participants that have not acknowledged, and those that a legal hold keeps. */
  missing: string[]
  held: string[]
}

/** Of one request: what each participant did. */
export interface ErasureStep {
  participant: string
  stage: number
  state: 'waiting' | 'sent' | 'held' | 'done'
  round: number
  attempts: number
  nextAttemptAt: Date | null
  lastError: string | null
  exhausted: boolean
  rowsAffected: bigint | null
  position: string | null
  ackedAt: Date | null
  rereadAt: Date | null
  secondRereadAt: Date | null
}

export const REQUEST_STATES = ['unfinished', 'open', 'watching', 'complete', 'all'] as const

/** Requests, oldest first. Reads only. */
export async function listErasures(
  { db }: { db: Queryable },
  {
    state,
    tenantId,
    id,
  }: { state: (typeof REQUEST_STATES)[number]; tenantId?: string | undefined; id?: string },
): Promise<ErasureRequest[]> {
  const rows = await db.query<Omit<ErasureRequest, 'subject'> & { hash: Buffer }>(
    `select r.id, r.tenant_id as "tenantId", t.slug as tenant, r.subject_hash as hash, r.state, r.authority,
       r.requested_at as "requestedAt", r.deadline_at as "deadlineAt",
       round(extract(epoch from coalesce(r.completed_at, clock_timestamp()) - r.requested_at)
         / extract(epoch from r.deadline_at - r.requested_at), 4)::float8 as "deadlineUsed",
       r.watch_until as "watchUntil", r.completed_at as "completedAt", r.follows,
       coalesce((select sum(rows_affected) from tabib.erasure_ack a where a.request_id = r.id), 0)::bigint as "rowsAffected",
       array(select participant from tabib.erasure_step s where s.request_id = r.id and s.state in ('waiting', 'sent')
             order by stage, participant) as missing,
       array(select participant from tabib.erasure_step s where s.request_id = r.id and s.state = 'held'
             order by stage, participant) as held
     from tabib.erasure_request r join tabib.tenant t on t.id = r.tenant_id
     where ($1 = 'all' or r.state = $1 or $1 = 'unfinished' and r.state <> 'complete')
       and ($2::uuid is null or r.tenant_id = $2) and ($3::text is null or r.id::text = $3)
     order by r.requested_at, r.id`,
    [state, tenantId, id],
  )
  return rows.map(({ hash, ...request }) => ({ ...request, subject: shortName(hash) }))
}

/** What each participant did for a request. */
export function listSteps({ db }: { db: Queryable }, requestId: string): Promise<ErasureStep[]> {
  return db.query<ErasureStep>(
    `select s.participant, s.stage, s.state, s.round, s.attempts,
       case when s.state in ('waiting', 'sent') then s.next_attempt_at end as "nextAttemptAt",
       s.last_error as "lastError", s.exhausted_at is not null and s.state <> 'done' as exhausted,
       a.rows as "rowsAffected", a.position, a.acked_at as "ackedAt", s.reread_at as "rereadAt",
       s.second_reread_at as "secondRereadAt"
     from tabib.erasure_step s left join lateral (
       select sum(rows_affected) over ()::bigint as rows, position, acked_at from tabib.erasure_ack a
       where (a.request_id, a.participant) = (s.request_id, s.participant) order by round desc limit 1) a on true
     where s.request_id::text = $1 order by s.stage, s.participant`,
    [requestId],
  )
}

/** Acknowledgements that are missing: requests × participants − acknowledgements, less what a legal hold keeps. */
export interface Missing {
  /** All that are missing. */
  unacknowledged: number
  /** Missing for longer than a reconciliation takes, or found again after an acknowledgement. */
  overdue: number
  /** Requests beyond their legal deadline. */
  beyondDeadline: number
}

/** A participant that is alive acknowledges within seconds; a lost message costs one wait more. */
export const OVERDUE_AFTER = '15 minutes'

/** The step `s` of request `r` is one that somebody should look at. */
export const IS_OVERDUE = `s.state in ('waiting', 'sent') and (s.round > 1
  or coalesce(s.sent_at, r.requested_at) < clock_timestamp() - interval '${OVERDUE_AFTER}')`

export async function missingAcknowledgements({ db }: { db: Queryable }): Promise<Missing> {
  const [missing] = await db.query<Missing>(
    `select count(*) filter (where s.state in ('waiting', 'sent'))::int as unacknowledged,
       count(*) filter (where ${IS_OVERDUE})::int as overdue,
       count(distinct r.id) filter (where r.deadline_at < clock_timestamp())::int as "beyondDeadline"
     from tabib.erasure_request r join tabib.erasure_step s on s.request_id = r.id
     where r.state <> 'complete'`,
  )
  return missing!
}
