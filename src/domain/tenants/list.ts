import type { Queryable } from '../../adapters/postgres/client.ts'

export interface TenantRow {
  slug: string
  status: 'onboarding' | 'live'
  currency: string | null
  region: string
  createdAt: Date
  id: string
  name: string
}

/** Tenants by slug; all of them without a status. */
export async function listTenants(
  { db }: { db: Queryable },
  { status }: { status?: TenantRow['status'] | undefined } = {},
): Promise<TenantRow[]> {
  return db.query<TenantRow>(
    `select slug, status, currency, region, created_at as "createdAt", id, name
     from tabib.tenant where $1::text is null or status = $1 order by slug`,
    [status ?? null],
  )
}
