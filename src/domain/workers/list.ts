import type { Queryable } from '../../adapters/postgres/client.ts'

/** What is on record of one worker's newest process. */
export interface WorkerOnRecord {
  name: string
  /** `beating`: in time. `stopped`: drained, or ran once to its end. `silent`: has missed its time; somebody is paged. */
  state: 'beating' | 'stopped' | 'silent'
  host: string
  pid: number
  version: string
  beatAt: Date
  lastPassAt: Date | null
  nextPassAt: Date | null
  lastResult: unknown
  lastError: string | null
  passes: number
  failures: number
}

/** The processes of every worker that has run within a day: those that beat, else the newest. */
export async function listWorkers({ db }: { db: Queryable }): Promise<WorkerOnRecord[]> {
  return db.query<WorkerOnRecord>(
    `with judged as (
       select *, case when stopped_at is not null then 'stopped'
                      when beat_at > clock_timestamp() - make_interval(secs => expected_every_s) then 'beating'
                      else 'silent' end as state
       from tabib.worker_heartbeat
       where beat_at > now() - interval '1 day'
     ), ranked as (
       select *, row_number() over (partition by name order by (state = 'beating') desc, beat_at desc) as rank
       from judged
     )
     select name, state, host, pid, version, beat_at as "beatAt", last_pass_at as "lastPassAt",
            next_pass_at as "nextPassAt", last_result as "lastResult", last_error as "lastError",
            passes::float8 as passes, failures::float8 as failures
     from ranked
     where state = 'beating' or rank = 1
     order by name, host, pid`,
  )
}
