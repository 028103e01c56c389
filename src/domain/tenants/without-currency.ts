import type { Queryable } from '../../adapters/postgres/client.ts'
import { PAYABLE_CURRENCIES } from './currency.ts'

/** Live tenants whose default currency is missing, or is none that anybody can pay in; by slug. */
export async function tenantsWithoutCurrency({ db }: { db: Queryable }): Promise<string[]> {
  const rows = await db.query<{ slug: string }>(
    `select slug from tabib.tenant
     where status = 'live' and (currency is null or currency <> all($1)) order by slug`,
    [PAYABLE_CURRENCIES],
  )
  return rows.map(({ slug }) => slug)
}
