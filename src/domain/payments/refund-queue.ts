import type { Queryable } from '../../adapters/postgres/client.ts'

/** A refund that stays so long without a decision is stuck. */
export const REFUND_PATIENCE_MS = 24 * 3_600_000

/** More than so many undecided for a day: somebody must be called. */
export const REFUNDS_LIMIT = 50

export const REFUND_STATES = ['requested', 'approved', 'rejected', 'paid'] as const

export interface QueuedRefund {
  id: string
  tenant: string
  state: (typeof REFUND_STATES)[number]
  amountMinor: bigint
  currency: string
  requestedAt: Date
  requestedBy: string
  clinician: string | null
  decidedBy: string | null
  /** When somebody was first told that it is stuck. */
  escalatedAt: Date | null
}

/** The review queue: refunds of one state, or of all, the oldest first. Ids of staff, none of patients. */
export function listRefunds(
  { db }: { db: Queryable },
  {
    state,
    tenantId,
    olderThanMs = 0,
    limit,
  }: {
    state?: QueuedRefund['state'] | undefined
    tenantId?: string | undefined
    olderThanMs?: number | undefined
    limit: number
  },
): Promise<QueuedRefund[]> {
  return db.query<QueuedRefund>(
    `select r.id, t.slug as tenant, r.state, r.amount_minor as "amountMinor", r.currency,
       r.requested_at as "requestedAt", r.requested_by as "requestedBy", r.clinician, r.decided_by as "decidedBy",
       (select min(escalated_at) from billing.refund_escalation e where (e.tenant_id, e.refund_id) = (r.tenant_id, r.id))
         as "escalatedAt"
     from billing.refund r join tabib.tenant t on t.id = r.tenant_id
     where ($1::text is null or r.state = $1) and ($2::uuid is null or r.tenant_id = $2)
       and r.requested_at <= now() - make_interval(secs => $3)
     order by r.requested_at, r.id limit $4`,
    [state, tenantId, olderThanMs / 1_000, limit],
  )
}

export interface RefundCounts {
  requested: number
  approved: number
  rejected: number
  /** The least that requested − approved (less what was rejected) was at any moment of the last 24 hours. */
  undecided24h: number
}

/**
 * Counts of all refunds there ever were, and how many have waited all day. A rejection is a decision: were it left out of
 * the difference, 51 rejections would page for ever.
 */
export async function refundCounts({ db }: { db: Queryable }): Promise<RefundCounts> {
  const [counts] = await db.query<RefundCounts>(
    `with change as (
       select requested_at as at, 1 as by from billing.refund where requested_at > now() - interval '24 hours'
       union all
       select decided_at, -1 from billing.refund where decided_at > now() - interval '24 hours'
     ), day as (
       select count(*) as at_start from billing.refund
       where requested_at <= now() - interval '24 hours' and (decided_at is null or decided_at > now() - interval '24 hours')
     )
     select count(*)::float8 as requested,
       count(*) filter (where state in ('approved', 'paid'))::float8 as approved,
       count(*) filter (where state = 'rejected')::float8 as rejected,
       (select at_start + least(0, (select min(so_far) from
          (select sum(by) over (order by at, by desc) as so_far from change) moments)) from day)::float8 as "undecided24h"
     from billing.refund`,
  )
  return counts!
}
