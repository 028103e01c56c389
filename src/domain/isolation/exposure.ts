import type { Queryable } from '../../adapters/postgres/client.ts'

export interface Exposure {
  /** Where the figures come from; without pg_stat_statements only how often each table was read is known. */
  source: 'pg_stat_statements' | 'table statistics'
  /** Since when the server has counted; null where it has never begun anew. */
  since: Date | null
  reads: {
    table: string
    role: string | null
    calls: bigint
    rows: bigint
    /** Without its values. */
    statement: string | null
  }[]
}

/**
 * What was read from tables since the server began to count: the statements with their values left out, by role, the most
 * rows first. A role that may not see others' statements (pg_read_all_stats) gets them without text. Reads only.
 */
export async function exposureOf(
  { db }: { db: Queryable },
  { tables }: { tables: readonly string[] },
): Promise<Exposure> {
  const [extension] = await db.query<{ schema: string; tells: boolean }>(
    `select quote_ident(n.nspname) as schema,
       to_regclass(format('%I.pg_stat_statements_info', n.nspname)) is not null as tells
     from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'pg_stat_statements'`,
  )
  const statements = extension && `${extension.schema}.pg_stat_statements`
  if (!extension || statements === undefined || !(await counts(db, statements))) {
    const reads = await db.query<Exposure['reads'][number]>(
      `select format('%I.%I', schemaname, relname) as table, null as role, null as statement,
         seq_scan + coalesce(idx_scan, 0) as calls, seq_tup_read + coalesce(idx_tup_fetch, 0) as rows
       from pg_stat_user_tables where format('%I.%I', schemaname, relname) = any($1) order by rows desc`,
      [tables],
    )
    const [reset] = await db.query<{ since: Date | null }>(
      'select stats_reset as since from pg_stat_database where datname = current_database()',
    )
    return { source: 'table statistics', since: reset?.since ?? null, reads }
  }
  const reads = await db.query<Exposure['reads'][number]>(
    `select wanted as table, r.rolname as role, s.calls, s.rows, left(regexp_replace(s.query, '\\s+', ' ', 'g'), 300) as statement
     from ${statements} s left join pg_roles r on r.oid = s.userid, unnest($1::text[]) wanted
     where s.dbid = (select oid from pg_database where datname = current_database())
       and s.query ~* ('\\m' || split_part(wanted, '.', 2) || '\\M') and s.query !~* '^\\s*(alter|create|drop|grant)'
     order by s.rows desc limit 200`,
    [tables],
  )
  // Before Postgres 14 nothing tells since when.
  const [reset] = extension.tells
    ? await db.query<{ since: Date | null }>(`select stats_reset as since from ${statements}_info`)
    : []
  return { source: 'pg_stat_statements', since: reset?.since ?? null, reads }
}

// The extension may be made without the library that counts.
async function counts(db: Queryable, statements: string): Promise<boolean> {
  try {
    await db.query(`select from ${statements} limit 1`)
    return true
  } catch (error) {
    if ((error as { code?: string }).code === '55000') return false
    throw error
  }
}
