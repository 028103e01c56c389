import type { Database } from '../../adapters/postgres/client.ts'
import { type Service, schemaOf } from '../../service.ts'

const BATCH = 5_000

/**
 * Deletes inbox entries older than `retentionMs`, in batches that hold no lock for long, until none is left or the
 * signal. An event that is delivered again after that counts as new, so keep them longer than any stream keeps events.
 *
 * @returns how many were deleted.
 */
export async function forgetInbox(
  { db }: { db: Database },
  { service, retentionMs }: { service: Service; retentionMs: number },
  { signal }: { signal: AbortSignal },
): Promise<number> {
  let deleted = 0
  for (let last = BATCH; last === BATCH && !signal.aborted; deleted += last) {
    const [row] = await db.query<{ n: number }>(
      `with old as (
         select ctid from ${schemaOf(service)}.inbox
         where handled_at < now() - make_interval(secs => $1) limit $2
       ), gone as (
         delete from ${schemaOf(service)}.inbox where ctid = any(array(select ctid from old)) returning 1
       )
       select count(*)::int as n from gone`,
      [retentionMs / 1_000, BATCH],
    )
    last = row?.n ?? 0
  }
  return deleted
}
