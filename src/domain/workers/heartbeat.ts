import type { Queryable } from '../../adapters/postgres/client.ts'

/** One process that runs workers: what its heartbeats and leases are signed with. */
export interface Instance {
  /** Host, pid and start: two processes never share it. */
  id: string
  host: string
  pid: number
  version: string
}

export interface Heartbeat {
  name: string
  /** False when the worker hangs: everything is recorded but the beat itself. */
  alive: boolean
  expectedEveryS: number
  /** Ages and waits rather than times: the database's clock is the clock. */
  passStartedAgoS: number | null
  lastPassAgoS: number | null
  nextPassInS: number | null
  /** Counts and ids, never personal data. */
  lastResult: object | null
  lastError: string | null
  passes: number
  failures: number
}

/** Writes down that a worker lives and what it last did. Once `stopped`, nobody misses it. */
export async function recordHeartbeat(
  { db }: { db: Queryable },
  instance: Instance,
  beat: Heartbeat,
  { stopped = false }: { stopped?: boolean } = {},
): Promise<void> {
  await db.query(
    `with moment as (select clock_timestamp() as at)
     insert into tabib.worker_heartbeat as h
       (name, instance, host, pid, version, expected_every_s, beat_at, pass_started_at, last_pass_at, next_pass_at,
        last_result, last_error, passes, failures, stopped_at)
     select $1, $2, $3, $4, $5, $6, at, at - make_interval(secs => $8), at - make_interval(secs => $9),
            at + make_interval(secs => $10), $11::jsonb, $12, $13, $14, case when $15 then at end
     from moment
     on conflict (name, instance) do update set
       beat_at = case when $7 then excluded.beat_at else h.beat_at end,
       expected_every_s = excluded.expected_every_s, pass_started_at = excluded.pass_started_at,
       last_pass_at = excluded.last_pass_at, next_pass_at = excluded.next_pass_at,
       last_result = excluded.last_result, last_error = excluded.last_error, passes = excluded.passes,
       failures = excluded.failures, stopped_at = excluded.stopped_at`,
    [
      beat.name,
      instance.id,
      instance.host,
      instance.pid,
      instance.version,
      beat.expectedEveryS,
      beat.alive,
      beat.passStartedAgoS,
      beat.lastPassAgoS,
      beat.nextPassInS,
      beat.lastResult === null ? null : JSON.stringify(beat.lastResult),
      beat.lastError,
      beat.passes,
      beat.failures,
      stopped,
    ],
  )
}

/** Deletes heartbeats of processes that nobody asks about any more: silent for a week. */
export async function forgetHeartbeats({ db }: { db: Queryable }): Promise<void> {
  await db.query(`delete from tabib.worker_heartbeat where beat_at < now() - interval '7 days'`)
}
