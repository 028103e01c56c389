import { randomUUID } from 'node:crypto'
import type { Database } from '../../../adapters/postgres/client.ts'
import { TabibError } from '../../../errors.ts'
import { SERVICES, schemaOf } from '../../../service.ts'
import type { TenantProbe } from '../check.ts'

/** As long as one table may take; one without an index on the tenant is read whole. */
const TIMEOUT = '10s'

/**
 * Asks each table that holds tenants' data, as the application's role and for a tenant that never was, for the rows of
 * these tenants. One statement a table, whatever the number of tenants. `tabib isolation check` asks far more.
 */
export const isolationProbe: TenantProbe<{ db: Database }> = {
  id: 'tenant/isolation-probe',
  category: 'residency',
  severity: 'critical',
  title: 'a stranger sees no row of the tenant',
  async run({ db }, tenants) {
    try {
      const leaks = await rowsForStrangers(
        db,
        tenants.map(({ id }) => id),
      )
      return tenants.map(({ id }) => {
        const tables = leaks.filter((leak) => leak.tenantIds.includes(id)).map(({ table }) => table)
        if (tables.length === 0) return undefined
        return {
          message: `another tenant sees its rows of ${tables.join(', ')}`,
          path: [],
          evidence: { tables },
          fix: 'tabib isolation check',
        }
      })
    } catch (error) {
      if (!(error instanceof TabibError && error.code === 'TIMED_OUT')) throw error
      // What was not looked at may be open: that is no pass, and nothing that may be left out.
      return tenants.map(() => ({
        message: `a table was not searched within ${TIMEOUT}, so nobody knows`,
        path: [],
        evidence: { timeout: TIMEOUT },
        fix: 'tabib isolation check',
      }))
    }
  },
}

async function rowsForStrangers(
  db: Database,
  tenantIds: string[],
): Promise<{ table: string; tenantIds: string[] }[]> {
  const tables = await db.query<{ name: string }>(
    `select format('%I.%I', n.nspname, c.relname) as name
     from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
     where a.attname = 'tenant_id' and not a.attisdropped and c.relkind in ('r', 'p') and not c.relispartition
       and n.nspname = any($1)
       and has_column_privilege('tabib_app', c.oid, a.attnum, 'select')
       and has_schema_privilege('tabib_app', n.oid, 'usage')
     order by 1`,
    [['tabib', ...SERVICES.map(schemaOf)]],
  )
  return db.transaction(async (tx) => {
    await tx.query('set local role tabib_app')
    await tx.query(
      `select set_config('app.tenant_id', $1, true), set_config('statement_timeout', $2, true)`,
      [randomUUID(), TIMEOUT],
    )
    const leaks: { table: string; tenantIds: string[] }[] = []
    for (const { name } of tables) {
      const seen = await tx.query<{ id: string }>(
        `select distinct tenant_id::text as id from ${name} where tenant_id = any($1::uuid[])`,
        [tenantIds],
      )
      if (seen.length > 0) leaks.push({ table: name, tenantIds: seen.map(({ id }) => id) })
    }
    return leaks
  })
}
