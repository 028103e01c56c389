import type { Database, Transaction } from '../../adapters/postgres/client.ts'
import { type Service, schemaOf } from '../../service.ts'
import type { EventHandler } from './consumers.ts'
import type { InboxEvent } from './event.ts'

export interface Handled {
  kind: 'handled' | 'duplicate'
  /** A later event of the same aggregate was handled before this one. */
  late: boolean
}

/**
 * Handles an event once: its entry in the inbox and what its handler does commit together, as `tabib_app` for the
 * event's tenant, so row-level security applies to the handler. A second delivery is a `duplicate` and changes nothing.
 * Whoever calls this acknowledges after it returned. An entry in quarantine for the event is settled with it.
 */
export async function handleEvent(
  { db }: { db: Database },
  {
    service,
    consumer,
    event,
    handler,
  }: { service: Service; consumer: string; event: InboxEvent; handler: EventHandler },
): Promise<Handled> {
  return db.transaction(async (tx) => {
    await tx.query(
      `update tabib.quarantine
       set state = 'redriven', resolved_at = now(), resolved_by = coalesce(resolved_by, 'handled')
       where service = $1 and origin = 'inbox' and consumer = $2 and event_id = $3 and state in ('open', 'redriving')`,
      [service, consumer, event.id],
      'inbox_settle',
    )
    await tx.query(
      `select set_config('role', 'tabib_app', true), set_config('app.tenant_id', $1, true)`,
      [event.tenantId],
      'inbox_begin',
    )
    const { recorded, late } = await record(tx, service, consumer, event)
    if (!recorded) return { kind: 'duplicate', late: false }
    await handler(tx, { ...event, late })
    // A handler that swallowed a failed statement has lost its transaction, and commit would roll back without a word;
    // this statement fails then.
    await tx.query(`select set_config('role', 'none', true)`)
    return { kind: 'handled', late }
  })
}

async function record(
  tx: Transaction,
  service: Service,
  consumer: string,
  event: InboxEvent,
): Promise<{ recorded: boolean; late: boolean }> {
  const inbox = `${schemaOf(service)}.inbox`
  const [row] = await tx.query<{ recorded: boolean; late: boolean }>(
    `with entry as (
       insert into ${inbox} (consumer, event_id, tenant_id, aggregate_type, aggregate_id, agg_seq)
       values ($1, $2, $3, $4, $5, $6)
       on conflict (consumer, event_id, tenant_id) do nothing returning 1
     )
     select exists (select from entry) as recorded,
            exists (select from ${inbox}
                    where consumer = $1 and aggregate_type = $4 and aggregate_id = $5 and agg_seq > $6) as late`,
    [consumer, event.id, event.tenantId, event.aggregateType, event.aggregateId, event.aggSeq],
    `inbox_record_${service}`,
  )
  return row!
}
