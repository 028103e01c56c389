import type { Queryable } from '../../adapters/postgres/client.ts'

/** Whether this process may make a worker's pass now. */
export type PassLease =
  | { kind: 'held' }
  /** Another process is at it. */
  | { kind: 'busy'; holder: string }
  /** A pass began so recently, here or elsewhere, that none is due. */
  | { kind: 'fresh'; sinceMs: number }

/**
 * Takes the right to make one pass, for all hosts: one statement, by the database's clock. A pass that succeeded and
 * began less than `notWithinMs` ago makes the next one wait; 0 asks for a pass in any case.
 */
export async function acquirePassLease(
  { db }: { db: Queryable },
  options: { name: string; holder: string; ttlMs: number; notWithinMs: number },
): Promise<PassLease> {
  const { name, holder, ttlMs, notWithinMs } = options
  const [outcome] = await db.query<{ taken: boolean; holder: string | null; since_ms: number | null }>(
    `with recent as (
       select extract(epoch from clock_timestamp() - max(pass_started_at))::float8 * 1000 as since_ms
       from tabib.worker_heartbeat where name = $1 and last_error is null
     ), taken as (
       insert into tabib.worker_lease as l (name, holder, expires_at)
       select $1, $2, clock_timestamp() + $3 * interval '1 ms'
       from recent where since_ms is null or since_ms >= $4
       on conflict (name) do update set holder = excluded.holder, expires_at = excluded.expires_at
         where l.expires_at < clock_timestamp() or l.holder = excluded.holder
       returning name
     )
     select exists (select from taken) as taken, since_ms,
            (select holder from tabib.worker_lease where name = $1 and expires_at >= clock_timestamp()) as holder
     from recent`,
    [name, holder, ttlMs, notWithinMs],
  )
  if (outcome?.taken) return { kind: 'held' }
  const { since_ms: sinceMs = null, holder: other = null } = outcome ?? {}
  if (other === null && sinceMs !== null && sinceMs < notWithinMs) return { kind: 'fresh', sinceMs }
  return { kind: 'busy', holder: other ?? 'another process' }
}

/** Prolongs the lease; false when another process has taken it meanwhile. */
export async function renewPassLease(
  { db }: { db: Queryable },
  { name, holder, ttlMs }: { name: string; holder: string; ttlMs: number },
): Promise<boolean> {
  const renewed = await db.query(
    `update tabib.worker_lease set expires_at = clock_timestamp() + $3 * interval '1 ms'
     where name = $1 and holder = $2 returning name`,
    [name, holder, ttlMs],
  )
  return renewed.length > 0
}

/** Gives the lease back; does nothing when it is no longer ours. */
export async function releasePassLease(
  { db }: { db: Queryable },
  { name, holder }: { name: string; holder: string },
): Promise<void> {
  await db.query('delete from tabib.worker_lease where name = $1 and holder = $2', [name, holder])
}
