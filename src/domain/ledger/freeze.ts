import type { Database, Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { raiseIncident } from '../incident/raise.ts'
import { resolveByKey } from '../incident/resolve.ts'
import type { Account } from './account.ts'
import type { ToldFault } from './faults.ts'

export const DRIFT_RUNBOOK = 'runbooks/billing/fm-07-ledger-drift.md'

/** One incident for each account. */
const dedupeKey = (accountId: string) => `billing/FM-07:${accountId}`

export interface Freeze {
  since: Date
  reason: string
  incidentId: string
}

/** Whether an account is frozen, since when, why and under which incident. */
export async function freezeOf(
  db: Queryable,
  { tenantId, id }: Pick<Account, 'tenantId' | 'id'>,
  { lock = false } = {},
): Promise<Freeze | undefined> {
  const [row] = await db.query<Freeze | { since: null }>(
    `select frozen_at as since, frozen_reason as reason, frozen_incident as "incidentId"
     from billing.balance where tenant_id = $1 and account_id = $2 ${lock ? 'for no key update' : ''}`,
    [tenantId, id],
  )
  return row?.since ? row : undefined
}

/** Every frozen account, the longest frozen first. */
export function frozenAccounts({ db }: { db: Queryable }): Promise<(Freeze & { accountId: string })[]> {
  return db.query(
    `select account_id as "accountId", frozen_at as since, frozen_reason as reason, frozen_incident as "incidentId"
     from billing.balance where frozen_at is not null order by frozen_at, account_id`,
  )
}

/**
 * Stops every post to one account: none is accepted once this has committed, since it waits for those under way at the
 * lock that posting takes. Opens the incident that pages (billing/FM-07), or counts one more report of it. An account
 * that is frozen already stays so for its first reason.
 * @param detail ids and figures for the incident.
 */
export function freezeAccount(
  { db }: { db: Database },
  { tenantId, id }: Pick<Account, 'tenantId' | 'id'>,
  { reason, detail }: { reason: string; detail?: Record<string, unknown> },
): Promise<{ incidentId: string; frozen: boolean }> {
  return db.transaction(async (tx) => {
    await tx.query(
      'insert into billing.balance (tenant_id, account_id) values ($1, $2) on conflict do nothing',
      [tenantId, id],
    )
    const before = await freezeOf(tx, { tenantId, id }, { lock: true })
    const incident = await raiseIncident(tx, {
      dedupeKey: dedupeKey(id),
      severity: 'page',
      mode: 'billing/FM-07',
      service: 'billing',
      title: `ledger account ${id} is frozen: ${before?.reason ?? reason}`,
      detail: { tenantId, accountId: id, ...detail },
      runbook: DRIFT_RUNBOOK,
    })
    if (before) return { incidentId: before.incidentId, frozen: false }
    await tx.query(
      `update billing.balance set frozen_at = clock_timestamp(), frozen_reason = $3, frozen_incident = $4
       where tenant_id = $1 and account_id = $2`,
      [tenantId, id, reason, incident.id],
    )
    return { incidentId: incident.id, frozen: true }
  })
}

/**
 * Lets posts to an account through again and resolves its incident, once the account verifies anew. Unfreezing one that
 * is not frozen changes nothing.
 * @throws TabibError LEDGER_DRIFT while it does not verify.
 */
export function unfreezeAccount(
  { db }: { db: Database },
  { tenantId, id }: Pick<Account, 'tenantId' | 'id'>,
  witness: { faults(db: Queryable): Promise<ToldFault[]> },
  { by, reason }: { by: string; reason: string },
): Promise<{ incidentId: string | undefined; unfrozen: boolean }> {
  return db.transaction(async (tx) => {
    const freeze = await freezeOf(tx, { tenantId, id }, { lock: true })
    if (!freeze) return { incidentId: undefined, unfrozen: false }
    const faults = await witness.faults(tx)
    if (faults.length > 0) {
      const count = `${faults.length} fault${faults.length === 1 ? '' : 's'}`
      throw new TabibError('LEDGER_DRIFT', `account ${id} stays frozen, with ${count}: ${faults[0]!.says}`, {
        suggestions: [`tabib ledger reconcile ${id} --dry-run`],
        ref: DRIFT_RUNBOOK,
        context: { faults },
      })
    }
    await tx.query(
      `update billing.balance set frozen_at = null, frozen_reason = null, frozen_incident = null
       where tenant_id = $1 and account_id = $2`,
      [tenantId, id],
    )
    await resolveByKey(tx, { dedupeKey: dedupeKey(id), by, resolution: reason })
    return { incidentId: freeze.incidentId, unfrozen: true }
  })
}
