import type { Queryable } from '../../adapters/postgres/client.ts'
import type { Service } from '../../service.ts'

export const ORIGINS = ['outbox', 'inbox'] as const
export const QUARANTINE_STATES = ['open', 'held', 'redriving', 'redriven', 'discarded'] as const
export type QuarantineState = (typeof QUARANTINE_STATES)[number]

/** Which events in quarantine are meant; what is absent excludes nothing. */
export interface QuarantineFilter {
  ids?: readonly string[] | undefined
  service?: Service | undefined
  origin?: (typeof ORIGINS)[number] | undefined
  consumer?: string | undefined
  /** The whole type, or its end: `ended`, `session.ended`, `virtual-care.session.ended`. */
  type?: string | undefined
  tenant?: string | undefined
  reason?: string | undefined
  fingerprint?: string | undefined
  olderThanMs?: number | undefined
  states?: readonly QuarantineState[] | undefined
}

/** An event in quarantine without what it says. */
export interface QuarantinedEvent {
  id: string
  service: Service
  /** `outbox`: it could not be published. `inbox`: a consumer could not handle it. */
  origin: (typeof ORIGINS)[number]
  consumer: string | null
  eventId: string
  tenantId: string | null
  aggregateType: string | null
  aggregateId: string | null
  type: string | null
  reason: string
  attempts: number
  fingerprint: string
  state: QuarantineState
  redrives: number
  quarantinedAt: Date
  resolvedAt: Date | null
  resolvedBy: string | null
}

/** Columns of a `QuarantinedEvent`. */
export const EVENT_COLUMNS = `id, service, origin, nullif(consumer, '') as consumer, event_id as "eventId",
  tenant_id as "tenantId", aggregate_type as "aggregateType", aggregate_id as "aggregateId", type, reason, attempts,
  fingerprint, state, redrives, quarantined_at as "quarantinedAt", resolved_at as "resolvedAt",
  resolved_by as "resolvedBy"`

/**
 * Events in quarantine, those first that are there longest; or in the order in which they happened, which is the order
 * to send them again.
 */
export async function listQuarantine(
  { db }: { db: Queryable },
  filter: QuarantineFilter,
  { limit = 100, order = 'quarantined' }: { limit?: number; order?: 'quarantined' | 'happened' } = {},
): Promise<QuarantinedEvent[]> {
  const sort = order === 'happened' ? 'service, origin, seq nulls first' : 'quarantined_at, seq'
  return db.query<QuarantinedEvent>(
    `select ${EVENT_COLUMNS} from tabib.quarantine where ${MATCHES} order by ${sort}, id limit $11`,
    [...valuesOf(filter), limit],
  )
}

/** Events that failed alike: one bug, or one change of a schema. */
export interface QuarantineGroup {
  fingerprint: string
  service: Service
  origin: (typeof ORIGINS)[number]
  consumer: string | null
  reason: string
  types: string[]
  events: number
  tenants: number
  oldest: Date
  newest: Date
}

/** Events in quarantine by fingerprint, most first. */
export async function groupQuarantine(
  { db }: { db: Queryable },
  filter: QuarantineFilter,
  { limit = 100 }: { limit?: number } = {},
): Promise<QuarantineGroup[]> {
  return db.query<QuarantineGroup>(
    `select fingerprint, service, origin, nullif(consumer, '') as consumer, reason,
       array_remove(array_agg(distinct type), null) as types, count(*)::int as events,
       count(distinct tenant_id)::int as tenants, min(quarantined_at) as oldest, max(quarantined_at) as newest
     from tabib.quarantine where ${MATCHES}
     group by fingerprint, service, origin, consumer, reason
     order by events desc, oldest limit $11`,
    [...valuesOf(filter), limit],
  )
}

const MATCHES = `($1::uuid[] is null or id = any($1))
  and ($2::text is null or service = $2)
  and ($3::text is null or origin = $3)
  and ($4::text is null or consumer = $4)
  and ($5::text is null or type = $5 or right(type, length($5) + 1) = '.' || $5)
  and ($6::text is null or lower(tenant_id) = lower($6))
  and ($7::text is null or reason = $7)
  and ($8::text is null or fingerprint = $8)
  and ($9::float8 is null or quarantined_at < now() - make_interval(secs => $9))
  and ($10::text[] is null or state = any($10))`

const valuesOf = (filter: QuarantineFilter): unknown[] => [
  filter.ids,
  filter.service,
  filter.origin,
  filter.consumer,
  filter.type,
  filter.tenant,
  filter.reason,
  filter.fingerprint,
  filter.olderThanMs === undefined ? undefined : filter.olderThanMs / 1_000,
  filter.states,
]
