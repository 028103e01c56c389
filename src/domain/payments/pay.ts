import type { Transaction } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { assertSameRequest, type Call } from '../idempotency/key.ts'
import type { Effect } from '../idempotency/once.ts'
import { openAccount } from '../ledger/account.ts'
import { postTransaction } from '../ledger/post.ts'
import { tenantCurrency } from './currency.ts'

/** What somebody paid. */
export interface NewPayment {
  /** The receivable account that it is for. */
  accountId: string
  amountMinor: bigint
  /** ISO 4217: the account's own. */
  currency: string
  /** `cash`, or the name of a payment gateway. */
  method: string
  /** The receipt's number, or the gateway's own: by it two equal payments are not taken for one made twice. */
  reference?: string | undefined
}

/** A payment on record, as `PAYMENT_COLUMNS` reads it. */
export interface Payment {
  id: string
  account_id: string
  amount_minor: bigint
  currency: string
  method: string
  reference: string | null
  transaction_id: string
  paid_at: Date
}

/** Where payments are asked for, by POST. */
export const PAYMENT_PATH = '/api/v1/billing/payments'
export const PAYMENT_COLUMNS =
  'id, account_id, amount_minor, currency, method, reference, transaction_id, paid_at'

/**
 * Records a payment and posts it: cash or the gateway's account is debited, the receivable credited. Once for its key,
 * for ever: an earlier payment under it is answered with again.
 *
 * @throws TabibError CURRENCY_NOT_SET, ACCOUNT_UNKNOWN, IDEMPOTENCY_KEY_REUSED, and what `postTransaction` throws.
 */
export async function pay(tx: Transaction, call: Call, payment: NewPayment): Promise<Effect> {
  const { tenantId, key, fingerprint } = call
  const { accountId, amountMinor, currency, method, reference } = payment
  const [first] = await tx.query<Payment & { fingerprint: Buffer }>(
    `select ${PAYMENT_COLUMNS}, fingerprint from billing.payment where tenant_id = $1 and idempotency_key = $2`,
    [tenantId, key],
    'payment_first',
  )
  if (first) {
    assertSameRequest(call, first)
    return { ...paymentAnswer(first), again: true }
  }
  await tenantCurrency(tx, tenantId)
  const [receivable] = await tx.query(
    `select id from billing.account where tenant_id = $1 and id = $2 and code ~ '^receivable(:|$)'`,
    [tenantId, accountId],
    'payment_account',
  )
  if (!receivable) {
    throw new TabibError('ACCOUNT_UNKNOWN', `the tenant has no receivable account ${accountId}`)
  }
  const code = method === 'cash' ? 'cash' : `gateway:${method}`
  const paidInto = await openAccount(tx, { tenantId, code, currency })
  const { id: transactionId } = await postTransaction(tx, {
    tenantId,
    kind: 'payment',
    businessKey: `payment:${key}`,
    entries: [
      { accountId: paidInto, amountMinor, currency },
      { accountId, amountMinor: -amountMinor, currency },
    ],
  })
  const [made] = await tx.query<Payment>(
    `insert into billing.payment
       (tenant_id, account_id, amount_minor, currency, method, reference, idempotency_key, fingerprint, transaction_id)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9) returning ${PAYMENT_COLUMNS}`,
    [tenantId, accountId, amountMinor, currency, method, reference, key, fingerprint, transactionId],
    'payment_insert',
  )
  return paymentAnswer(made!)
}

/** What a payment is answered with; the same bytes whenever it is made. */
export function paymentAnswer(payment: Payment): { status: number; body: string } {
  const body = {
    id: payment.id,
    accountId: payment.account_id,
    amountMinor: payment.amount_minor.toString(),
    currency: payment.currency,
    method: payment.method,
    reference: payment.reference,
    transactionId: payment.transaction_id,
    paidAt: payment.paid_at,
  }
  return { status: 201, body: JSON.stringify(body) }
}
