import type { Database, Queryable } from '../../adapters/postgres/client.ts'

/**
 * The platform's tables with tenant data that a service can reach, and whose row-level security is off or does not hold for
 * their owner. One look at the catalogs, cheap enough for every scrape; `isolation check` looks for everything else.
 */
export async function unprotectedTables({ db }: { db: Queryable }): Promise<string[]> {
  const rows = await db.query<{ name: string }>(
    `select format('%I.%I', n.nspname, c.relname) as name
     from pg_class c
       join pg_namespace n on n.oid = c.relnamespace
       join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped
     where n.nspname in ('virtual_care', 'billing', 'communication', 'tabib') and c.relkind in ('r', 'p')
       and not (c.relrowsecurity and c.relforcerowsecurity)
       and (c.relispartition or has_any_column_privilege('tabib_app', c.oid, 'select, insert, update')
            or has_table_privilege('tabib_app', c.oid, 'delete'))
     order by 1`,
  )
  return rows.map(({ name }) => name)
}

/**
 * Switches row-level security of these tables on again, for their owner too, all at once; their policies were never gone.
 * `db` must be the owner's connection. Gives up after 5 s of waiting for a table, having changed nothing.
 */
export async function protectTables({ db }: { db: Database }, tables: readonly string[]): Promise<void> {
  await db.transaction(async (tx) => {
    await tx.query(`set local lock_timeout = '5s'`)
    // Names as `format('%I')` quoted them.
    for (const table of tables) {
      await tx.query(`alter table ${table} enable row level security`)
      await tx.query(`alter table ${table} force row level security`)
    }
  })
}
