import type { Queryable } from '../../adapters/postgres/client.ts'
import type { Problem } from './check.ts'
import { unknownTenant } from './find.ts'
import { schemaProblems } from './parse.ts'
import { type Tenant, tenantSchema } from './tenant.ts'

/** A tenant as the database has it. */
export interface StoredTenant {
  id: string
  tenant: Tenant
  /** Where what is stored breaks the schema; those parts are left out of `tenant`. */
  problems: Problem[]
}

/**
 * Reads tenants by slug, all of them or the one with this slug or id, in one statement. A stored document that breaks
 * the schema is read as far as it holds.
 *
 * @throws TabibError NOT_FOUND when the one that is named does not exist.
 */
export async function readTenants(db: Queryable, named?: string): Promise<StoredTenant[]> {
  const stored = await storedTenants(db, named)
  if (named !== undefined && stored.length === 0) throw await unknownTenant(db, named)
  return stored
}

/** The tenant with this slug or id, where there is one. */
export async function readTenant(db: Queryable, named: string): Promise<StoredTenant | undefined> {
  const [stored] = await storedTenants(db, named)
  return stored
}

async function storedTenants(db: Queryable, named: string | undefined): Promise<StoredTenant[]> {
  const rows = await db.query<{ id: string; document: Record<string, unknown> }>(
    `select t.id,
       -- Columns and tables lead; the profile has the rest.
       coalesce(p.document, '{}')
         || jsonb_build_object('residency', coalesce(p.document -> 'residency', '{}') || jsonb_build_object(
           'region', t.region,
           'allowed', array(select region from tabib.tenant_region where tenant_id = t.id order by region)))
         || jsonb_strip_nulls(jsonb_build_object(
           'slug', t.slug, 'name', t.name, 'status', t.status, 'currency', t.currency))
         || jsonb_build_object(
           'items', (select coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
               'code', code, 'sellable', sellable, 'tax', tax_code)) order by code), '[]')
             from billing.item where tenant_id = t.id),
           'priceLists', (select coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
               'name', name, 'currency', currency, 'from', lower(effective),
               'to', nullif(upper(effective), 'infinity'),
               'prices', (select coalesce(jsonb_agg(jsonb_build_object(
                   'item', item_code, 'amountMinor', amount_minor) order by item_code), '[]')
                 from billing.price where tenant_id = t.id and price_list_id = list.id)))
               order by lower(effective)), '[]')
             from billing.price_list list where tenant_id = t.id),
           'accounts', (select coalesce(jsonb_agg(jsonb_build_object(
               'code', code, 'currency', currency, 'openingMinor', opening_minor) order by code), '[]')
             -- Those that are opened as they are needed, such as a patient's, are no part of any document.
             from billing.account where tenant_id = t.id and position(':' in code) = 0)) as document
     from tabib.tenant t left join tabib.tenant_profile p on p.tenant_id = t.id
     where $1::text is null or t.slug = $1 or t.id::text = lower($1)
     order by t.slug`,
    [named ?? null],
  )
  return rows.map(({ id, document }) => ({ id, ...wellFormed(document) }))
}

/** The document less what breaks the schema. */
function wellFormed(document: Record<string, unknown>): Omit<StoredTenant, 'id'> {
  const parsed = tenantSchema.safeParse(document)
  if (parsed.success) return { tenant: parsed.data, problems: [] }
  const problems = schemaProblems(parsed.error).map(({ path, message }) => ({
    path: path as Problem['path'],
    about: path.join('.'),
    message: `${path.join('.')}: ${message}`,
    fix: 'tabib schema tenant',
  }))
  const rest = Object.entries(document).filter(([key]) => !problems.some(({ path }) => path[0] === key))
  // Slug and name are columns that may hold what no document may; nothing else is needed to speak of a tenant.
  const names = { slug: 'unnamed', name: 'unnamed' }
  const { slug, name, ...tenant } = tenantSchema.parse({ ...names, ...Object.fromEntries(rest) })
  return { tenant: { ...tenant, slug: String(document.slug), name: String(document.name) }, problems }
}
