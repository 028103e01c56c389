import type { Database } from '../../adapters/postgres/client.ts'
import { SERVICES, schemaOf } from '../../service.ts'
import { closeSettledIncidents } from '../inbox/incidents.ts'

/**
 * Takes events out of quarantine for good. One that a consumer gave up on is entered in its inbox too, so that no later
 * delivery or replay lets it take effect after all. Doing it twice changes nothing. The events themselves are kept.
 * @returns how many were discarded now.
 */
export async function discardEvents(
  { db }: { db: Database },
  { ids, by, reason }: { ids: readonly string[]; by: string; reason: string },
): Promise<{ discarded: number }> {
  const discarded = await db.transaction(async (tx) => {
    const rows = await tx.query(
      `update tabib.quarantine set state = 'discarded', resolved_at = now(), resolved_by = $2
       where id = any($1::uuid[]) and state in ('open', 'held', 'redriving') returning id`,
      [ids, by],
    )
    for (const service of SERVICES) {
      await tx.query(
        `insert into ${schemaOf(service)}.inbox (consumer, event_id, tenant_id, aggregate_type, aggregate_id)
         select consumer, event_id, coalesce(tenant_id::uuid, '00000000-0000-0000-0000-000000000000'), aggregate_type, aggregate_id from tabib.quarantine
         where id = any($1::uuid[]) and service = $2 and origin = 'inbox' and state = 'discarded'
         on conflict do nothing`,
        [ids, service],
      )
    }
    return rows.length
  })
  await closeSettledIncidents({ db }, { by, resolution: `discarded: ${reason}` })
  return { discarded }
}
