import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { PAYABLE_CURRENCIES } from '../tenants/currency.ts'

/** What a tenant charges in. @throws TabibError NOT_FOUND; CURRENCY_NOT_SET when it is nothing that anybody can pay in. */
export async function tenantCurrency(tx: Queryable, tenantId: string): Promise<string> {
  const [tenant] = await tx.query<{ currency: string | null }>(
    'select currency from tabib.tenant where id = $1',
    [tenantId],
    'tenant_currency',
  )
  if (!tenant) throw new TabibError('NOT_FOUND', `there is no tenant ${tenantId}`)
  const { currency } = tenant
  if (currency && PAYABLE_CURRENCIES.includes(currency)) return currency
  throw new TabibError(
    'CURRENCY_NOT_SET',
    `tenant ${tenantId} has no currency that anybody can pay in; nothing was changed`,
    {
      suggestions: ['tabib tenant set-currency'],
      ref: 'runbooks/billing/fm-13-currency-missing.md',
      context: { tenantId },
    },
  )
}
