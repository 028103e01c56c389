import type { Database, Queryable, Transaction } from '../../adapters/postgres/client.ts'
import { raiseIncident } from '../incident/raise.ts'
import { REFUND_PATIENCE_MS, REFUNDS_LIMIT, refundCounts } from './refund-queue.ts'

const MODE = 'billing/FM-10'

/** One person of one tenant and the refunds that wait for them; `ops` of no tenant is the ops channel. */
export interface Call {
  tenantId: string | null
  tenant: string | null
  /** Whom the pager tells: `ops`, or staff as the identity provider names them. */
  notify: string
  refundIds: string[]
  oldestAt: Date
}

export interface EscalationPlan {
  calls: Call[]
}

/**
 * Whom to call for refunds that nobody decided about for so long and for which nobody was called before: the ops channel
 * for all of them, and for each its clinician, or, where that is nobody who may decide, the tenant's refund approvers.
 */
export async function planEscalation(
  { db }: { db: Queryable },
  {
    olderThanMs = REFUND_PATIENCE_MS,
    tenantId,
  }: { olderThanMs?: number | undefined; tenantId?: string | undefined } = {},
): Promise<EscalationPlan> {
  const calls = await db.query<Call>(
    `with stuck as (
       select r.*, t.slug from billing.refund r join tabib.tenant t on t.id = r.tenant_id
       where r.state = 'requested' and r.requested_at <= clock_timestamp() - make_interval(secs => $1)
         and ($2::uuid is null or r.tenant_id = $2)
         and not exists (
           select from billing.refund_escalation e where (e.tenant_id, e.refund_id) = (r.tenant_id, r.id))
     ), call as (
       select null::uuid as tenant_id, null::text as slug, 'ops' as notify, id, requested_at from stuck
       union all
       select tenant_id, slug, coalesce(nullif(clinician, requested_by), supervisor.name), id, requested_at
       from stuck left join lateral (
         select jsonb_path_query(document, '$.refunds.approvers[*]') #>> '{}' as name
         from tabib.tenant_profile profile
         where profile.tenant_id = stuck.tenant_id and nullif(clinician, requested_by) is null
       ) supervisor on supervisor.name <> requested_by
     )
     select tenant_id as "tenantId", slug as tenant, notify, array_agg(id order by id) as "refundIds",
       min(requested_at) as "oldestAt"
     from call where notify is not null group by 1, 2, 3 order by slug nulls first, notify`,
    [olderThanMs / 1_000, tenantId],
  )
  return { calls }
}

export interface Escalation {
  refunds: number
  /** Incidents that were opened; those open before took the refunds in. */
  opened: number
}

/**
 * Calls whom the plan names, once each: an incident for each, which the pager worker delivers, and a note for each
 * refund, in one transaction. Refunds that were escalated meanwhile are left out.
 */
export function escalateRefunds({ db }: { db: Database }, plan: EscalationPlan): Promise<Escalation> {
  return oneAtATime(db, (tx) => escalate(tx, plan))
}

/** The worker and a command, or two of them, one after the other: the second finds the notes of the first. */
function oneAtATime<T>(db: Database, work: (tx: Transaction) => Promise<T>): Promise<T> {
  return db.transaction(async (tx) => {
    await tx.query(`select pg_advisory_xact_lock(hashtextextended('tabib.refund-escalation', 0))`)
    return work(tx)
  })
}

async function escalate(tx: Transaction, { calls }: EscalationPlan): Promise<Escalation> {
  const noted = await tx.query<{ id: string }>(
    'select distinct refund_id as id from billing.refund_escalation where refund_id = any($1)',
    [calls.flatMap(({ refundIds }) => refundIds)],
  )
  const known = new Set(noted.map(({ id }) => id))
  const escalated = new Set<string>()
  let opened = 0
  for (const call of calls) {
    const refundIds = call.refundIds.filter((id) => !known.has(id))
    if (refundIds.length === 0) continue
    const incident = await raiseIncident(tx, incidentOf({ ...call, refundIds }))
    await tx.query(
      `insert into billing.refund_escalation (tenant_id, refund_id, incident_id)
       select tenant_id, id, $2 from billing.refund where id = any($1)`,
      [refundIds, incident.id],
    )
    if (incident.opened) opened += 1
    for (const id of refundIds) escalated.add(id)
  }
  return { refunds: escalated.size, opened }
}

function incidentOf({ tenantId, tenant, notify, refundIds, oldestAt }: Call) {
  const whose = tenant === null ? '' : ` of ${tenant}`
  return {
    dedupeKey: tenantId === null ? MODE : `${MODE}:${tenantId}:${notify}`,
    severity: 'page' as const,
    mode: MODE,
    service: 'billing' as const,
    title: `Refunds${whose} wait for a decision since ${oldestAt.toISOString()}`,
    detail: { tenant, refunds: refundIds.length, oldestAt, notify: [notify] },
    runbook: 'runbooks/billing/fm-10-refund-approval-stuck.md',
  }
}

/**
 * One pass: escalates what is stuck when too much has been for a day, and closes the incidents of those whose refunds
 * are all decided.
 */
export async function watchRefunds({ db }: { db: Database }): Promise<Escalation & { closed: number }> {
  const { undecided24h } = await refundCounts({ db })
  const plan = undecided24h > REFUNDS_LIMIT ? await planEscalation({ db }) : { calls: [] }
  return oneAtATime(db, async (tx) => {
    const escalation = await escalate(tx, plan)
    const closed = await tx.query(
      `update tabib.incident i
       set state = 'resolved', resolved_at = clock_timestamp(), resolved_by = 'refund-watch',
         resolution = 'its refunds are decided'
       where mode = $1 and state <> 'resolved' and not exists (
         select from billing.refund_escalation e join billing.refund r
           on (r.tenant_id, r.id) = (e.tenant_id, e.refund_id)
         where e.incident_id = i.id and r.state = 'requested')
       returning id`,
      [MODE],
    )
    return { ...escalation, closed: closed.length }
  })
}
