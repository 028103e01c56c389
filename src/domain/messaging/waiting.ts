import type { Database, Queryable } from '../../adapters/postgres/client.ts'
import { followIncidents } from '../incident/follow.ts'
import { CHANNELS } from './template.ts'

/** Messages of one category by one channel that have not gone out. */
export interface UnsentMessages {
  channel: string
  /** Of the newest version of the template; null where there is no such template. */
  category: string | null
  /** For a time to come. */
  scheduled: number
  /** Due, and of these those that were refused at least once for now. */
  waiting: number
  refused: number
  /** Of the last seven days: not sent for good, and not sent in time. */
  failed: number
  expired: number
  /** How long ago the first of those that wait was due, or first tried; null where none waits. */
  oldestS: number | null
  /** The same of those that were refused. */
  refusedS: number | null
  /** Codes that they were refused with. */
  errors: string[]
}

/** A message that was refused again and again for so long is one that people hear of. */
export const WAITING_TOO_LONG_S = 900

const MODE = 'tabib/messages-waiting'
// A message is as old as its first attempt: `due_at` moves with each.
const SINCE = 'coalesce(first_tried_at, due_at)'
/** `$1` is the age, in ms, beyond which a message without an end of its own is not sent any more. */
export const EXPIRES_AT = `coalesce(expires_at, ${SINCE} + make_interval(secs => $1::float8 / 1000))`

/** What waits, and what never went out, of all tenants. Counts alone: for nobody and of nothing. */
export function unsentMessages({ db }: { db: Queryable }): Promise<UnsentMessages[]> {
  return db.query<UnsentMessages>(
    `with unsent as (
       select template, channel, status, last_error, due_at, ${SINCE} as since,
         status = 'queued' and attempts = 0 and due_at > clock_timestamp() as scheduled
       from communication.message
       where status = 'queued' and due_at is not null
         or status in ('failed', 'expired') and due_at > clock_timestamp() - interval '7 days')
     select channel, (select category from communication.template t where t.id = unsent.template
         order by version desc limit 1) as category,
       count(*) filter (where scheduled)::int as scheduled,
       count(*) filter (where status = 'queued' and not scheduled)::int as waiting,
       count(*) filter (where status = 'queued' and not scheduled and last_error is not null)::int as refused,
       count(*) filter (where status = 'failed')::int as failed,
       count(*) filter (where status = 'expired')::int as expired,
       round(extract(epoch from clock_timestamp() - min(since) filter (where status = 'queued' and not scheduled)))::float8
         as "oldestS",
       round(extract(epoch from clock_timestamp() - min(since) filter (where status = 'queued' and last_error is not null)))::float8
         as "refusedS",
       coalesce(array_agg(distinct last_error) filter (where status = 'queued' and last_error is not null), '{}') as errors
     from unsent where channel = any($1) group by 1, 2 order by 1, 2`,
    [CHANNELS],
  )
}

/** For how long messages that are still to go out have been refused for now, by channel. */
export async function refusedFor({
  db,
}: {
  db: Queryable
}): Promise<{ channel: string; waiting: number; oldestS: number; errors: string[] }[]> {
  return db.query(
    `select channel, count(*)::int as waiting, array_agg(distinct last_error) as errors,
       extract(epoch from clock_timestamp() - min(first_tried_at))::float8 as "oldestS"
     from communication.message
     where status = 'queued' and last_error is not null and channel = any($1) group by channel order by channel`,
    [CHANNELS],
  )
}

export interface MessageWatch {
  expired: number
  opened: number
  closed: number
}

/**
 * One pass: what is too old to be sent is `expired`, and an incident is opened, once, for each channel that has taken some
 * message for a quarter of an hour not; one that takes messages again is closed. Twice is once.
 */
export async function watchMessages(
  { db }: { db: Database },
  { maxAgeMs, signal }: { maxAgeMs: number; signal: AbortSignal },
): Promise<MessageWatch> {
  let expired = 0
  for (let full = true; full && !signal.aborted; ) {
    const n = await expire(db, maxAgeMs)
    expired += n
    full = n === BATCH
  }
  const stuck = (await refusedFor({ db })).filter(({ oldestS }) => oldestS > WAITING_TOO_LONG_S)
  const incidents = stuck.map(({ channel, waiting, oldestS, errors }) => ({
    dedupeKey: `${MODE}:${channel}`,
    severity: 'page' as const,
    service: 'communication' as const,
    title: `${channel}: ${waiting} messages are not taken, the first for ${Math.round(oldestS / 60)} min`,
    detail: { channel, waiting, oldestS: Math.round(oldestS), errors },
    runbook: 'runbooks/tabib/messages-waiting.md',
  }))
  const told = await db.transaction((tx) =>
    followIncidents(tx, incidents, {
      mode: MODE,
      by: 'message-watch',
      resolution: 'no message waits that long any more',
    }),
  )
  return { expired, ...told }
}

const BATCH = 5_000

async function expire(db: Queryable, maxAgeMs: number): Promise<number> {
  // One that is due at a later time is being sent, or was not tried yet.
  const expired = await db.query(
    `update communication.message set status = 'expired'
     where id in (
       select id from communication.message
       where status = 'queued' and due_at <= clock_timestamp() and channel = any($2) and ${EXPIRES_AT} <= clock_timestamp()
       limit ${BATCH} for update skip locked)
     returning 1`,
    [maxAgeMs, CHANNELS],
  )
  return expired.length
}
