import type { Database } from '../../adapters/postgres/client.ts'
import { type Service, schemaOf } from '../../service.ts'

const BATCH = 5_000

/**
 * Deletes a service's keys that have expired, in batches that hold no lock for long, until none is left or the signal.
 * Younger ones the table itself keeps.
 *
 * @returns how many were deleted.
 */
export async function forgetKeys(
  { db }: { db: Database },
  { service }: { service: Service },
  { signal }: { signal: AbortSignal },
): Promise<number> {
  const table = `${schemaOf(service)}.idempotency_key`
  let deleted = 0
  for (let last = BATCH; last === BATCH && !signal.aborted; deleted += last) {
    const [row] = await db.query<{ n: number }>(
      `with old as (
         select ctid from ${table} where created_at <= now() - interval '24 hours' limit $1
       ), gone as (
         delete from ${table} where ctid = any(array(select ctid from old)) returning 1
       )
       select count(*)::int as n from gone`,
      [BATCH],
    )
    last = row?.n ?? 0
  }
  return deleted
}
