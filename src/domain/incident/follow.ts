import type { Transaction } from '../../adapters/postgres/client.ts'
import { type NewIncident, raiseIncident } from './raise.ts'

/**
 * Makes the open incidents of a failure mode those that are given: opens which are not, leaves alone which are, and resolves
 * the others. Twice is once.
 */
export async function followIncidents(
  tx: Transaction,
  incidents: readonly Omit<NewIncident, 'mode'>[],
  { mode, by, resolution }: { mode: string; by: string; resolution: string },
): Promise<{ opened: number; closed: number }> {
  const closed = await tx.query(
    `update tabib.incident
     set state = 'resolved', resolved_at = clock_timestamp(), resolved_by = $3, resolution = $4
     where mode = $1 and state <> 'resolved' and dedupe_key <> all($2) returning id`,
    [mode, incidents.map(({ dedupeKey }) => dedupeKey), by, resolution],
  )
  const open = await tx.query<{ key: string }>(
    `select dedupe_key as key from tabib.incident where mode = $1 and state <> 'resolved'`,
    [mode],
  )
  const keys = new Set(open.map(({ key }) => key))
  const missing = incidents.filter(({ dedupeKey }) => !keys.has(dedupeKey))
  for (const incident of missing) await raiseIncident(tx, { ...incident, mode })
  return { opened: missing.length, closed: closed.length }
}
