import type { Transaction } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { assertSameRequest, type Call } from '../idempotency/key.ts'
import type { Effect } from '../idempotency/once.ts'
import { openAccount } from '../ledger/account.ts'
import { postTransaction } from '../ledger/post.ts'
import { tenantCurrency } from './currency.ts'

/** What is charged to whom. */
export interface NewCharge {
  tenantId: string
  patientId: string
  sessionId?: string | undefined
  /** Of a sellable item, which the price list in effect prices. */
  code: string
}

/** What makes a charge one for ever: the event that caused it, or the key of the request for it. */
export type ChargeCause = { eventId: string } | Pick<Call, 'key' | 'fingerprint'>

/** A charge on record, as `CHARGE_COLUMNS` reads it. */
export interface Charge {
  id: string
  patient_id: string
  session_id: string | null
  account_id: string | null
  code: string
  amount_minor: bigint
  currency: string
  transaction_id: string | null
  captured_at: Date
}

/** Where charges are asked for, by POST. */
export const CHARGE_PATH = '/api/v1/billing/charges'
export const CHARGE_COLUMNS =
  'id, patient_id, session_id, account_id, code, amount_minor, currency, transaction_id, captured_at'

/**
 * Charges an item at the price in effect, and posts it: the patient's receivable account is debited, revenue credited.
 * What costs nothing is put on record alone. Once for its cause, for ever: an earlier charge is given back, at its own
 * price, with `again`.
 *
 * @throws TabibError NOT_FOUND for an unknown tenant, CURRENCY_NOT_SET, PRICE_NOT_FOUND, IDEMPOTENCY_KEY_REUSED, and what
 * `postTransaction` throws.
 */
export async function charge(
  tx: Transaction,
  ask: NewCharge,
  cause: ChargeCause,
): Promise<Charge & { again: boolean }> {
  const first = await chargedBefore(tx, ask, cause)
  if (first) return { ...first, again: true }
  const { tenantId, patientId, sessionId, code } = ask
  const { amountMinor, currency } = await priceOf(tx, ask)
  const accountId = await openAccount(tx, { tenantId, code: `receivable:${patientId}`, currency })
  const byEvent = 'eventId' in cause
  const transaction =
    amountMinor === 0n
      ? undefined
      : await postTransaction(tx, {
          tenantId,
          kind: 'charge',
          businessKey: byEvent ? `charge:${cause.eventId}` : `charge:key:${cause.key}`,
          entries: [
            { accountId, amountMinor, currency },
            {
              accountId: await openAccount(tx, { tenantId, code: 'revenue', currency }),
              amountMinor: -amountMinor,
              currency,
            },
          ],
        })
  const [charged] = await tx.query<Charge>(
    `insert into billing.charge (tenant_id, patient_id, session_id, account_id, code, amount_minor, currency,
       transaction_id, event_id, idempotency_key, fingerprint)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) returning ${CHARGE_COLUMNS}`,
    [
      tenantId,
      patientId,
      sessionId,
      accountId,
      code,
      amountMinor,
      currency,
      transaction?.id,
      ...(byEvent ? [cause.eventId, null, null] : [null, cause.key, cause.fingerprint]),
    ],
    'charge_insert',
  )
  return { ...charged!, again: false }
}

async function chargedBefore(
  tx: Transaction,
  { tenantId, code }: NewCharge,
  cause: ChargeCause,
): Promise<Charge | undefined> {
  if ('eventId' in cause) {
    const [first] = await tx.query<Charge>(
      `select ${CHARGE_COLUMNS} from billing.charge
       where tenant_id = $1 and event_id = $2 and code = $3 order by captured_at limit 1`,
      [tenantId, cause.eventId, code],
      'charge_of_event',
    )
    return first
  }
  const [first] = await tx.query<Charge & { fingerprint: Buffer }>(
    `select ${CHARGE_COLUMNS}, fingerprint from billing.charge where tenant_id = $1 and idempotency_key = $2`,
    [tenantId, cause.key],
    'charge_of_key',
  )
  if (first) assertSameRequest(cause, first)
  return first
}

/** Answers a request for a charge; see `charge`. */
export async function chargeOnce(
  tx: Transaction,
  call: Call,
  ask: Omit<NewCharge, 'tenantId'>,
): Promise<Effect> {
  const charged = await charge(tx, { tenantId: call.tenantId, ...ask }, call)
  return { ...chargeAnswer(charged), again: charged.again }
}

/** What a charge is answered with; the same bytes whenever it is made. */
export function chargeAnswer(charged: Charge): { status: number; body: string } {
  const body = {
    id: charged.id,
    patientId: charged.patient_id,
    sessionId: charged.session_id,
    accountId: charged.account_id,
    code: charged.code,
    amountMinor: charged.amount_minor.toString(),
    currency: charged.currency,
    transactionId: charged.transaction_id,
    chargedAt: charged.captured_at,
  }
  return { status: 201, body: JSON.stringify(body) }
}

/** Of the lists in the tenant's currency that are in effect now, the one that began last decides. */
async function priceOf(
  tx: Transaction,
  { tenantId, code }: Pick<NewCharge, 'tenantId' | 'code'>,
): Promise<{ amountMinor: bigint; currency: string }> {
  const currency = await tenantCurrency(tx, tenantId)
  const [price] = await tx.query<{ amountMinor: bigint }>(
    `select price.amount_minor as "amountMinor"
     from billing.price_list list
       join billing.price on price.tenant_id = list.tenant_id and price.price_list_id = list.id
       join billing.item on item.tenant_id = price.tenant_id and item.code = price.item_code
     where list.tenant_id = $1 and list.currency = $2 and price.item_code = $3 and item.sellable
       and list.effective @> now()
     order by lower(list.effective) desc, list.id limit 1`,
    [tenantId, currency, code],
    'charge_price',
  )
  if (price) return { ...price, currency }
  throw new TabibError(
    'PRICE_NOT_FOUND',
    `tenant ${tenantId} has no price in ${currency} in effect for ${JSON.stringify(code)}; nothing was charged`,
    { ref: 'runbooks/billing/fm-14-price-list-lapse.md', context: { tenantId, itemCode: code } },
  )
}
