import type { Transaction } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'

/**
 * A tenant's account by its code in the chart of accounts (`receivable:<patient id>`, `revenue`, `cash`,
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
