import type { Database } from '../../adapters/postgres/client.ts'
import { raiseIncident } from '../incident/raise.ts'
import type { LedgerFinding } from './examine.ts'
import { DRIFT_RUNBOOK, freezeAccount } from './freeze.ts'

/** What became of what a verification found. */
export interface Stopped {
  /** Accounts that take no post any more; those frozen before are not among them. */
  frozen: string[]
  /** Every incident that the findings belong to, opened now or before. */
  incidents: string[]
}

/**
 * Freezes each account in which something does not add up, that account alone, under an incident of its own that pages
 * once; what is wrong with no account in particular gets an incident without a freeze. Found again, it is the same incident.
 */
export async function stopDrift(
  { db }: { db: Database },
  findings: readonly LedgerFinding[],
): Promise<Stopped> {
  const stopped: Stopped = { frozen: [], incidents: [] }
  const critical = findings.filter(({ severity }) => severity === 'critical')
  const byAccount = new Map<string, { tenantId: string; id: string; found: LedgerFinding[] }>()
  for (const found of critical) {
    for (const account of found.freezes) {
      const entry = byAccount.get(account.id) ?? { ...account, found: [] }
      byAccount.set(account.id, { ...entry, found: [...entry.found, found] })
    }
  }
  for (const { found, ...account } of byAccount.values()) {
    if (!(await exists(db, account))) {
      for (const one of found) stopped.incidents.push(await page(db, one))
      continue
    }
    const { incidentId, frozen } = await freezeAccount({ db }, account, {
      reason: `${found[0]!.object}: ${found[0]!.message}`,
      detail: {
        findings: found.map(({ id, message, evidence }) => ({ id, message, seq: evidence.seq ?? null })),
      },
    })
    if (frozen) stopped.frozen.push(account.id)
    stopped.incidents.push(incidentId)
  }
  for (const found of critical) if (found.freezes.length === 0) stopped.incidents.push(await page(db, found))
  return { frozen: stopped.frozen, incidents: [...new Set(stopped.incidents)] }
}

async function exists(db: Database, { tenantId, id }: { tenantId: string; id: string }): Promise<boolean> {
  const found = await db.query('select from billing.account where tenant_id = $1 and id = $2', [tenantId, id])
  return found.length > 0
}

async function page(db: Database, { id, object, message, evidence }: LedgerFinding): Promise<string> {
  const incident = await raiseIncident(db, {
    dedupeKey: `billing/FM-07:${id}:${object}`,
    severity: 'page',
    mode: 'billing/FM-07',
    service: 'billing',
    title: `${object}: ${message}`,
    detail: evidence,
    runbook: DRIFT_RUNBOOK,
  })
  return incident.id
}
