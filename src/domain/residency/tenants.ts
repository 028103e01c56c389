import { createHash } from 'node:crypto'
import type { Queryable } from '../../adapters/postgres/client.ts'
import { canonicalJson } from '../audit/canonical-json.ts'

/** A tenant and the regions that its data may be in: its own, and those it has allowed besides. */
export interface Tenant {
  id: string
  slug: string
  allowed: readonly string[]
}

/** What a database says of residency. */
export interface Tenancy {
  tenants: readonly Tenant[]
  /** Of the Postgres cluster: shared by a primary, its replicas and its physical backups. */
  systemIdentifier: string
  /** Key ids that sign for nothing any more. */
  revokedKeys: readonly string[]
  now: Date
}

/** Every tenant with its allowlist, as one statement sees them; reads only, so a standby will do. */
export async function readTenancy({ db }: { db: Queryable }): Promise<Tenancy> {
  const [row] = await db.query<Tenancy>(
    `select system_identifier::text as "systemIdentifier", clock_timestamp() as now,
       array(select kid from tabib.key_revocation) as "revokedKeys",
       (select coalesce(json_agg(json_build_object('id', t.id, 'slug', t.slug, 'allowed', array(
            select t.region union select r.region from tabib.tenant_region r where r.tenant_id = t.id order by 1
          )) order by t.slug), '[]') from tabib.tenant t) as tenants
     from pg_control_system()`,
  )
  return row!
}

/** SHA-256 over every tenant's id and allowlist, in hex: two sets with one hash are the same. */
export function tenantSetHash(tenants: readonly Tenant[]): string {
  const set = tenants
    .map(({ id, allowed }) => [id, ...[...allowed].sort()])
    .sort(([a], [b]) => (a! < b! ? -1 : 1))
  return createHash('sha256').update(canonicalJson(set)).digest('hex')
}
