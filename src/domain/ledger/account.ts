import type { Queryable, Transaction } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'

export interface Account {
  tenantId: string
  id: string
  /** Its place in the chart of accounts. */
  code: string
  /** ISO 4217. */
  currency: string
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

/** An account by its id, of whichever tenant. @throws TabibError ACCOUNT_UNKNOWN */
export async function findAccount({ db }: { db: Queryable }, id: string): Promise<Account> {
  const [account] = UUID.test(id)
    ? await db.query<Account>(
        'select tenant_id as "tenantId", id, code, currency from billing.account where id = $1',
        [id],
      )
    : []
  if (account) return account
  throw new TabibError(
    'ACCOUNT_UNKNOWN',
    `there is no ledger account "${id}"; an account is named by its id`,
    {
      suggestions: ['tabib ledger verify'],
    },
  )
}

/**
 * The id of a tenant's account by its code in the chart of accounts (`receivable:<patient id>`, `revenue`, `cash`,
 * `gateway:<name>`, `refunds-payable` …), opened on first use. Works in a transaction of the tenant's.
 * @throws TabibError CURRENCY_MISMATCH when it is kept in another currency.
 */
export async function openAccount(
  tx: Transaction,
  { tenantId, code, currency }: { tenantId: string; code: string; currency: string },
): Promise<string> {
  const find = () =>
    tx.query<{ id: string; currency: string }>(
      'select id, currency from billing.account where tenant_id = $1 and code = $2',
      [tenantId, code],
      'ledger_account',
    )
  let [account] = await find()
  if (!account) {
    await tx.query(
      `insert into billing.account (tenant_id, code, currency) values ($1, $2, $3)
       on conflict (tenant_id, code) do nothing`,
      [tenantId, code, currency],
    )
    ;[account] = await find()
  }
  if (account!.currency !== currency) {
    throw new TabibError(
      'CURRENCY_MISMATCH',
      `account ${code} of tenant ${tenantId} is kept in ${account!.currency}, not in ${currency}`,
    )
  }
  return account!.id
}
