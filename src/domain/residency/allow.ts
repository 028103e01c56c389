import type { Queryable } from '../../adapters/postgres/client.ts'

/** Lets a tenant's data be in one more region, or no longer; the same again changes nothing. */
export async function allowRegion(
  { db }: { db: Queryable },
  { tenantId, region, allow }: { tenantId: string; region: string; allow: boolean },
): Promise<{ changed: boolean }> {
  const changed = await db.query(
    allow
      ? 'insert into tabib.tenant_region (tenant_id, region) values ($1, $2) on conflict do nothing returning region'
      : 'delete from tabib.tenant_region where tenant_id = $1 and region = $2 returning region',
    [tenantId, region],
  )
  return { changed: changed.length > 0 }
}
