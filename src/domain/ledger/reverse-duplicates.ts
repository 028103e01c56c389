import type { Database, Transaction } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { raiseIncident } from '../incident/raise.ts'
import { openAccount } from './account.ts'
import { type Duplicate, duplicateCharges } from './duplicates.ts'
import { type NewEntry, postTransaction } from './post.ts'

const MODE = 'billing/FM-08'

export interface Reversals {
  /** One entry for each duplicate that is reversed now. `again`: it was before. */
  reversed: { transactionId: string; reversedBy: string; incidentId: string; again: boolean }[]
  /** Those that could not be, such as one on a frozen account, by the error's message. */
  failed: { transactionId: string | null; chargeId: string | null; code: string; message: string }[]
}

/**
 * Undoes duplicates of one tenant by reversing transactions that name its incident, which is opened where none is:
 * nothing is edited or deleted, and each is a transaction of its own, so that one that fails keeps back no other. A charge
 * that was never posted by itself is posted and reversed, so that the ledger tells of it. Safe to repeat.
 */
export async function reverseDuplicates(
  { db }: { db: Database },
  duplicates: readonly Duplicate[],
  { severity }: { severity: 'page' | 'ticket' },
): Promise<Reversals> {
  const reversals: Reversals = { reversed: [], failed: [] }
  for (const duplicate of duplicates) {
    const incidentId = await incidentOf(db, duplicate, severity)
    try {
      reversals.reversed.push(await db.transaction((tx) => reverse(tx, duplicate, incidentId)))
    } catch (error) {
      if (!(error instanceof TabibError) || error.retryable) throw error
      const { transactionId, chargeId } = duplicate
      reversals.failed.push({ transactionId, chargeId, code: error.code, message: error.message })
    }
  }
  return reversals
}

/** The tenant's open incident. It commits before money moves: after a crash the next run goes on under the same one. */
async function incidentOf(
  db: Database,
  { tenantId, tenant, basis, chargeId, transactionId }: Duplicate,
  severity: 'page' | 'ticket',
): Promise<string> {
  const dedupeKey = `${MODE}:${tenantId}`
  const [open] = await db.query<{ id: string }>(
    `select id from tabib.incident where dedupe_key = $1 and state <> 'resolved'`,
    [dedupeKey],
  )
  if (open) return open.id
  const { id } = await raiseIncident(db, {
    dedupeKey,
    severity,
    mode: MODE,
    service: 'billing',
    title: `Charges of ${tenant} were made twice: deduplication has a hole`,
    detail: { tenant, basis, chargeId, transactionId, notify: ['ops'] },
    runbook: 'runbooks/billing/fm-08-duplicate-charge-capture.md',
  })
  return id
}

async function reverse(tx: Transaction, duplicate: Duplicate, incidentId: string) {
  const { tenantId } = duplicate
  await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
  if (duplicate.chargeId !== null) await lockCharge(tx, tenantId, duplicate.chargeId)
  const transactionId = duplicate.transactionId ?? (await postCharge(tx, duplicate))
  const entries = await tx.query<NewEntry>(
    `select account_id as "accountId", -amount_minor as "amountMinor", currency from billing.entry
     where tenant_id = $1 and transaction_id = $2`,
    [tenantId, transactionId],
  )
  const { id: reversedBy, again } = await postTransaction(tx, {
    tenantId,
    kind: 'reversal',
    // Whatever run or incident it is: a transaction is reversed once.
    businessKey: `reversal:${transactionId}`,
    entries,
    reverses: transactionId,
    incidentId,
  })
  return { transactionId, reversedBy, incidentId, again }
}

/** Whoever approves a refund of the charge locks it too: it is reversed or paid back, never both. */
async function lockCharge(tx: Transaction, tenantId: string, chargeId: string): Promise<void> {
  const values = [tenantId, chargeId]
  await tx.query('select from billing.charge where tenant_id = $1 and id = $2 for update', values)
  const refunds = await tx.query(
    `select from billing.refund where tenant_id = $1 and charge_id = $2 and state in ('approved', 'paid')`,
    values,
  )
  if (refunds.length > 0) throw new TabibError('NOT_NEEDED', `charge ${chargeId} was paid back meanwhile`)
}

async function postCharge(tx: Transaction, { tenantId, chargeId }: Duplicate): Promise<string> {
  const [charge] = await tx.query<{ patientId: string; amountMinor: bigint; currency: string }>(
    `select patient_id as "patientId", amount_minor as "amountMinor", currency from billing.charge
     where tenant_id = $1 and id = $2`,
    [tenantId, chargeId],
  )
  const { patientId, amountMinor, currency } = charge!
  const [receivable, revenue] = [
    await openAccount(tx, { tenantId, code: `receivable:${patientId}`, currency }),
    await openAccount(tx, { tenantId, code: 'revenue', currency }),
  ]
  const { id } = await postTransaction(tx, {
    tenantId,
    kind: 'charge',
    businessKey: `charge:unposted:${chargeId}`,
    entries: [
      { accountId: receivable, amountMinor, currency },
      { accountId: revenue, amountMinor: -amountMinor, currency },
    ],
  })
  await tx.query('update billing.charge set transaction_id = $3 where tenant_id = $1 and id = $2', [
    tenantId,
    chargeId,
    id,
  ])
  return id
}

/** Of one tenant so many at once are no missed deduplication any more: somebody has to look before money moves. */
const AUTOMATIC_LIMIT = 50

/**
 * One pass: reverses every charge that certainly repeats another, and pages. Where a tenant has more than 50 it pages and
 * leaves them to `tabib ledger reconcile --duplicates`, which wants a second person.
 */
export async function reverseCertainDuplicates({ db }: { db: Database }): Promise<{
  reversed: number
  failed: number
  left: number
}> {
  const found = await duplicateCharges({ db }, {}, { certain: true })
  const counts = { reversed: 0, failed: 0, left: 0 }
  for (const tenantId of new Set(found.map((one) => one.tenantId))) {
    const duplicates = found.filter((one) => one.tenantId === tenantId)
    if (duplicates.length > AUTOMATIC_LIMIT) {
      await incidentOf(db, duplicates[0]!, 'page')
      counts.left += duplicates.length
      continue
    }
    const { reversed, failed } = await reverseDuplicates({ db }, duplicates, { severity: 'page' })
    counts.reversed += reversed.length
    counts.failed += failed.length
  }
  return counts
}
