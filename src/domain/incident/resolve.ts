import type { Queryable } from '../../adapters/postgres/client.ts'
import { type Incident, showIncident } from './list.ts'

/**
 * Closes an incident; the next report under its key opens a new one. Resolving it again changes nothing. Whoever was
 * paged is told by the next `deliverPages`.
 * @throws TabibError NOT_FOUND
 */
export async function resolveIncident(
  { db }: { db: Queryable },
  { id, by, resolution }: { id: string; by: string; resolution?: string | undefined },
): Promise<Incident> {
  await showIncident({ db }, id)
  await db.query(
    `update tabib.incident
     set state = 'resolved', resolved_at = clock_timestamp(), resolved_by = $2, resolution = $3
     where id = $1 and state <> 'resolved'`,
    [id, by, resolution],
  )
  return showIncident({ db }, id)
}

/**
 * Closes the incident under a dedupe key, if one is open: what a detector calls when its mode is quiet again.
 * @returns whether there was one.
 */
export async function resolveByKey(
  db: Queryable,
  { dedupeKey, by, resolution }: { dedupeKey: string; by: string; resolution: string },
): Promise<boolean> {
  const closed = await db.query(
    `update tabib.incident
     set state = 'resolved', resolved_at = clock_timestamp(), resolved_by = $2, resolution = $3
     where dedupe_key = $1 and state <> 'resolved' returning id`,
    [dedupeKey, by, resolution],
  )
  return closed.length > 0
}
