import type { Queryable } from '../../adapters/postgres/client.ts'

const MODE = 'billing/FM-18'

/** Under which all events that fail alike are one incident. */
export const incidentKey = (fingerprint: string): string => `${MODE}:${fingerprint}`

/**
 * Closes the incidents of events that failed alike once none of them is in quarantine any more.
 * @returns how many were closed.
 */
export async function closeSettledIncidents(
  { db }: { db: Queryable },
  { by, resolution }: { by: string; resolution: string },
): Promise<number> {
  const closed = await db.query(
    `update tabib.incident i
     set state = 'resolved', resolved_at = clock_timestamp(), resolved_by = $2, resolution = $3
     where i.state <> 'resolved' and (starts_with(i.dedupe_key, $1 || ':') or starts_with(i.dedupe_key, 'outbox-poison:'))
       and not exists (
         select from tabib.quarantine q
         where q.fingerprint = substring(i.dedupe_key from '[^:]*$') and q.state in ('open', 'redriving'))
     returning i.id`,
    [MODE, by, resolution],
  )
  return closed.length
}
