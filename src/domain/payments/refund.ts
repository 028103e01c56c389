import type { Transaction } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { openAccount } from '../ledger/account.ts'
import { postTransaction } from '../ledger/post.ts'

export interface NewRefund {
  tenantId: string
  patientId: string
  /** The charge that is paid back, where it is one. */
  chargeId?: string | undefined
  amountMinor: bigint
  /** ISO 4217. */
  currency: string
  /** Staff, as the identity provider names them. */
  requestedBy: string
  /** Whose decision it is before it is a supervisor's. */
  clinician?: string | undefined
}

/**
 * Asks for money to go back, in a transaction of the tenant's. Nothing is posted until another person approves.
 * @throws TabibError AMOUNT_INVALID, also when the charge's refunds would exceed it; NOT_FOUND for a charge that the
 * patient does not have; NOT_NEEDED for one that was reversed.
 */
export async function requestRefund(tx: Transaction, refund: NewRefund): Promise<{ id: string }> {
  const { tenantId, patientId, chargeId, amountMinor, currency, requestedBy, clinician } = refund
  if (amountMinor <= 0n) {
    throw new TabibError(
      'AMOUNT_INVALID',
      `a refund of ${amountMinor}: it is a positive amount of minor units`,
    )
  }
  if (chargeId !== undefined) await withinCharge(tx, { ...refund, chargeId })
  const [row] = await tx.query<{ id: string }>(
    `insert into billing.refund (tenant_id, patient_id, charge_id, amount_minor, currency, requested_by, clinician)
     values ($1, $2, $3, $4, $5, $6, $7) returning id`,
    [tenantId, patientId, chargeId, amountMinor, currency, requestedBy, clinician],
  )
  return row!
}

async function withinCharge(tx: Transaction, refund: NewRefund & { chargeId: string }): Promise<void> {
  const { tenantId, patientId, chargeId, amountMinor, currency } = refund
  const charge = await lockCharge(tx, refund)
  if (charge?.patientId !== patientId || charge.currency !== currency) {
    throw new TabibError('NOT_FOUND', `patient ${patientId} has no charge ${chargeId} in ${currency}`)
  }
  const [before] = await tx.query<{ amount: string }>(
    `select coalesce(sum(amount_minor), 0)::text as amount from billing.refund
     where tenant_id = $1 and charge_id = $2 and state <> 'rejected'`,
    [tenantId, chargeId],
  )
  const left = charge.amountMinor - BigInt(before!.amount)
  if (amountMinor > left) {
    throw new TabibError(
      'AMOUNT_INVALID',
      `a refund of ${amountMinor}: ${left} are left of charge ${chargeId}`,
    )
  }
}

/**
 * The charge, locked: refunds of it are counted one after the other, and none meets its reversal.
 * @throws TabibError NOT_NEEDED when it is reversed, as a duplicate is: nobody owes it any more.
 */
async function lockCharge(tx: Transaction, { tenantId, chargeId }: { tenantId: string; chargeId: string }) {
  const values = [tenantId, chargeId]
  const [charge] = await tx.query<{ patientId: string; amountMinor: bigint; currency: string }>(
    `select patient_id as "patientId", amount_minor as "amountMinor", currency from billing.charge
     where tenant_id = $1 and id = $2 for update`,
    values,
  )
  const reversals = await tx.query(
    `select from billing.charge join billing.journal_transaction r
       on r.tenant_id = charge.tenant_id and r.reverses = charge.transaction_id
     where charge.tenant_id = $1 and charge.id = $2`,
    values,
  )
  if (reversals.length === 0) return charge
  throw new TabibError('NOT_NEEDED', `charge ${chargeId} was reversed: nothing of it is left to pay back`)
}

/**
 * Decides about a refund, in a transaction of the tenant's; approving posts what is owed to the patient now. The same
 * decision again changes nothing and posts nothing.
 * @throws TabibError NOT_AUTHORISED when the requester decides; NOT_FOUND; NOT_NEEDED when it was decided otherwise,
 * or its charge was reversed; what `postTransaction` throws.
 */
export async function decideRefund(
  tx: Transaction,
  decision: { tenantId: string; refundId: string; by: string; approve: boolean },
): Promise<{ again: boolean }> {
  const { tenantId, refundId, by, approve } = decision
  const refund = await lockRefund(tx, decision)
  if (by === refund.requestedBy) {
    throw new TabibError(
      'NOT_AUTHORISED',
      `${by} asked for refund ${refundId}: another person decides about it`,
    )
  }
  const becomes = approve ? 'approved' : 'rejected'
  if (refund.state !== 'requested') {
    if ((refund.state === 'rejected') === !approve) return { again: true }
    throw alreadyDecided(refundId, refund)
  }
  if (approve && refund.chargeId !== null) await lockCharge(tx, { tenantId, chargeId: refund.chargeId })
  await tx.query(
    `update billing.refund set state = $3, decided_by = $4, decided_at = clock_timestamp()
     where tenant_id = $1 and id = $2`,
    [tenantId, refundId, becomes, by],
  )
  if (approve) await post(tx, refund, { key: 'approved', debit: 'refunds', credit: 'refunds-payable' })
  return { again: false }
}

/**
 * Records that an approved refund was paid out, from cash or a gateway's account; paid before, it changes nothing.
 * @throws TabibError NOT_FOUND; NOT_NEEDED while nobody approved it.
 */
export async function payRefund(
  tx: Transaction,
  payment: { tenantId: string; refundId: string; from: 'cash' | `gateway:${string}` },
): Promise<{ again: boolean }> {
  const { tenantId, refundId, from } = payment
  const refund = await lockRefund(tx, payment)
  if (refund.state === 'paid') return { again: true }
  if (refund.state !== 'approved') throw alreadyDecided(refundId, refund)
  await tx.query(
    `update billing.refund set state = 'paid', paid_at = clock_timestamp() where tenant_id = $1 and id = $2`,
    [tenantId, refundId],
  )
  await post(tx, refund, { key: 'paid', debit: 'refunds-payable', credit: from })
  return { again: false }
}

interface Refund {
  tenantId: string
  id: string
  chargeId: string | null
  state: 'requested' | 'approved' | 'rejected' | 'paid'
  requestedBy: string
  decidedBy: string | null
  amountMinor: bigint
  currency: string
}

async function lockRefund(
  tx: Transaction,
  { tenantId, refundId }: { tenantId: string; refundId: string },
): Promise<Refund> {
  const [refund] = await tx.query<Refund>(
    `select tenant_id as "tenantId", id, charge_id as "chargeId", state, requested_by as "requestedBy", decided_by as "decidedBy",
       amount_minor as "amountMinor", currency
     from billing.refund where tenant_id = $1 and id = $2 for update`,
    [tenantId, refundId],
  )
  if (refund) return refund
  throw new TabibError('NOT_FOUND', `there is no refund ${refundId}`, { suggestions: ['tabib refunds list'] })
}

async function post(
  tx: Transaction,
  { tenantId, id, amountMinor, currency }: Refund,
  { key, debit, credit }: { key: string; debit: string; credit: string },
): Promise<void> {
  const [to, from] = [
    await openAccount(tx, { tenantId, code: debit, currency }),
    await openAccount(tx, { tenantId, code: credit, currency }),
  ]
  await postTransaction(tx, {
    tenantId,
    kind: 'refund',
    businessKey: `refund:${id}:${key}`,
    entries: [
      { accountId: to, amountMinor, currency },
      { accountId: from, amountMinor: -amountMinor, currency },
    ],
  })
}

const alreadyDecided = (id: string, { state, decidedBy }: Refund): TabibError =>
  new TabibError('NOT_NEEDED', `refund ${id} is ${state}${decidedBy === null ? '' : `, by ${decidedBy}`}`, {
    suggestions: ['tabib refunds list --state all'],
  })
