import type { Queryable } from '../../adapters/postgres/client.ts'
import { type UnsentMessages, unsentMessages } from './waiting.ts'

export interface MessagingStatus {
  halted: { tenant: string; category: string; haltedAt: Date; findings: number; incidentId: string | null }[]
  /** By channel and category, what waits and what never went out. */
  messages: UnsentMessages[]
  /** Every template with its version in use (null: none, and it is not sent), and those that were retired. */
  templates: { id: string; channel: string; category: string; current: number | null; retired: number[] }[]
}

export async function messagingStatus({ db }: { db: Queryable }): Promise<MessagingStatus> {
  const halted = await db.query<MessagingStatus['halted'][number]>(
    `select t.slug as tenant, h.category, halted_at as "haltedAt", count(f.id)::int as findings,
       (array_agg(f.incident_id order by f.found_at desc) filter (where f.incident_id is not null))[1] as "incidentId"
     from communication.category_halt h
     join tabib.tenant t on t.id = h.tenant_id
     left join communication.phi_finding f
       on f.tenant_id = h.tenant_id and f.category = h.category and f.found_at >= h.halted_at - interval '1 hour'
     where resumed_at is null group by 1, 2, 3 order by 1, 2`,
  )
  const templates = await db.query<MessagingStatus['templates'][number]>(
    `select id, max(channel) as channel, max(category) as category,
       max(version) filter (where state = 'current') as current,
       coalesce(array_agg(version order by version) filter (where state = 'retired'), '{}') as retired
     from communication.template group by id order by id`,
  )
  return { halted, messages: await unsentMessages({ db }), templates }
}
