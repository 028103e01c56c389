import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { type Incident, showIncident } from './list.ts'

/**
 * Takes an incident on: it stays open to be resolved, and no page is sent for it any more. Acknowledging it again
 * changes nothing.
 * @throws TabibError NOT_FOUND when there is none, or it is resolved already.
 */
export async function ackIncident(
  { db }: { db: Queryable },
  { id, by }: { id: string; by: string },
): Promise<Incident> {
  const seen = await showIncident({ db }, id)
  if (seen.state === 'resolved') {
    throw new TabibError('NOT_FOUND', `incident ${id} was resolved by ${seen.resolvedBy} already`, {
      suggestions: [`tabib incident show ${id}`],
    })
  }
  await db.query(
    `update tabib.incident set state = 'acked', acked_at = clock_timestamp(), acked_by = $2
     where id = $1 and state = 'open'`,
    [id, by],
  )
  return showIncident({ db }, id)
}
