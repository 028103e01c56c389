import type { Queryable } from '../../adapters/postgres/client.ts'

export interface WorkersAlive {
  /** Workers that are not missed among all that ran in the last day; undefined when none did. */
  ratio: number | undefined
  /** Workers that went silent, with the age of their last beat in seconds. */
  stopped: { name: string; host: string; beatAgeS: number }[]
}

/**
 * Which workers still beat. One is stopped when none of its processes has beaten within the time it promised and the
 * last to beat did not say that it was stopping. A day after its last beat it is forgotten: it was taken away for good.
 */
export async function workersAlive({ db }: { db: Queryable }): Promise<WorkersAlive> {
  const workers = await db.query<{ name: string; host: string; beat_age_s: number; missed: boolean }>(
    `with newest as (
       select distinct on (name) name, host, beat_at, stopped_at,
              stopped_at is null and beat_at > now() - make_interval(secs => expected_every_s) as alive
       from tabib.worker_heartbeat
       where beat_at > now() - interval '1 day'
       order by name, alive desc, beat_at desc
     )
     select name, host, extract(epoch from now() - beat_at)::float8 as beat_age_s, stopped_at is null and not alive as missed
     from newest
     order by name`,
  )
  const stopped = workers
    .filter(({ missed }) => missed)
    .map(({ name, host, beat_age_s }) => ({ name, host, beatAgeS: Math.round(beat_age_s) }))
  return {
    ratio: workers.length === 0 ? undefined : (workers.length - stopped.length) / workers.length,
    stopped,
  }
}
