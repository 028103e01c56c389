import type { Database, Queryable } from '../../../adapters/postgres/client.ts'

export interface LiveColumn {
  name: string
  /** `json` also for arrays and domains of it; `text` for what may hold JSON without saying so. */
  holds: 'json' | 'text' | 'bytes' | 'other'
  /** Columns of the same table that it is computed from and stored. */
  computedFrom: string[]
  /** Whether this login may read it. */
  readable: boolean
}

/** A table, or whatever else stores rows: a materialised view, or a foreign table, whose rows lie elsewhere. */
export interface LiveTable {
  /** `schema.table`, quoted where it must be. */
  name: string
  kind: 'table' | 'materialised view' | 'foreign table'
  /** Of its heap and those of its partitions. */
  bytes: number
  /** Row-level security applies to this login. */
  guarded: boolean
  /** It has no policy that shows this login anything. */
  hidden: boolean
  /** Without those that it inherits: they are of the table that it inherits from. */
  columns: LiveColumn[]
}

/**
 * Everything in a database that stores rows, whatever schema it is in. Partitions are their table's. Views store
 * nothing. Of an extension's tables only those count that it has filled with what users wrote (`pg_extension_config_dump`).
 */
export async function readTables(db: Queryable): Promise<LiveTable[]> {
  return db.query<LiveTable>(
    `with recursive inner_type (oid, of) as (
       select oid, oid from pg_type
       union
       select i.oid, case t.typtype when 'd' then t.typbasetype else t.typelem end
       from inner_type i join pg_type t on t.oid = i.of
       where t.typtype = 'd' or t.typcategory = 'A' and t.typelem <> 0
     )
     select format('%I.%I', n.nspname, c.relname) as name,
       case c.relkind when 'm' then 'materialised view' when 'f' then 'foreign table' else 'table' end as kind,
       coalesce((select sum(pg_relation_size(part.relid)) from pg_partition_tree(c.oid) part where part.isleaf),
         pg_relation_size(c.oid), 0)::float8 as bytes,
       row_security_active(c.oid) as guarded,
       row_security_active(c.oid) and not exists (
         select from pg_policy p where p.polrelid = c.oid and p.polpermissive and p.polcmd in ('*', 'r')
           and (p.polroles = '{0}' or exists (select from unnest(p.polroles) r where pg_has_role(r, 'usage')))) as hidden,
       coalesce((select json_agg(json_build_object('name', a.attname,
           'holds', case
             when exists (select from inner_type i where i.oid = a.atttypid and i.of in ('json'::regtype, 'jsonb'::regtype))
               then 'json'
             when b.typcategory = 'S' then 'text' when b.oid = 'bytea'::regtype then 'bytes' else 'other' end,
           'computedFrom', array(select s.attname from pg_attrdef f
              join pg_depend d on d.classid = 'pg_attrdef'::regclass and d.objid = f.oid
                and d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid and d.refobjsubid <> a.attnum
              join pg_attribute s on s.attrelid = c.oid and s.attnum = d.refobjsubid and s.attnum > 0
              where f.adrelid = c.oid and f.adnum = a.attnum and a.attgenerated <> ''),
           'readable', has_schema_privilege(n.oid, 'usage') and has_column_privilege(c.oid, a.attnum, 'select')
             and (c.relkind <> 'm' or c.relispopulated))
           order by a.attnum)
         from pg_attribute a join pg_type b on b.oid = a.atttypid
         where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attinhcount = 0), '[]') as columns
     from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p', 'm', 'f') and not c.relispartition
       and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
       and not exists (select from pg_depend d join pg_extension e on e.oid = d.refobjid
         where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
           and c.oid <> all(coalesce(e.extconfig, '{}')))
     order by n.nspname, c.relname`,
  )
}

/** Ways on which rows leave the database by themselves, and what lies in it outside of tables. */
export async function readOutlets(
  db: Queryable,
): Promise<{ publications: string[]; slots: string[]; largeObjects: number }> {
  const [found] = await db.query<{ publications: string[]; slots: string[]; largeObjects: number }>(
    `select array(select pubname::text from pg_publication order by 1) as publications,
       array(select slot_name::text from pg_replication_slots
             where slot_type = 'logical' and database = current_database() order by 1) as slots,
       (select count(*) from pg_largeobject_metadata)::float8 as "largeObjects"`,
  )
  return found!
}

const BATCH_ROWS = 200

/** A part of the rows is read where a table is larger than this. */
const READ_WHOLE_BYTES = 64 * 1_048_576

/**
 * The values of one column as text, or bytes, a few hundred rows at a time; of a large table those of a random part of
 * its pages, of `READ_WHOLE_BYTES`, unless all are asked for. They are personal data: whoever reads keeps none.
 */
export async function* readValues(
  db: Database,
  table: LiveTable,
  column: LiveColumn,
  { all, that }: { all: boolean; that?: string },
): AsyncGenerator<(string | Buffer)[]> {
  const part = all ? 1 : Math.min(1, READ_WHOLE_BYTES / Math.max(1, table.bytes))
  const sample =
    table.kind === 'foreign table'
      ? ''
      : part === 1
        ? ''
        : `tablesample system (${Math.max(part * 100, 0.001).toFixed(4)})`
  const quoted = `"${column.name.replaceAll('"', '""')}"`
  const value = column.holds === 'json' ? `to_jsonb(t.${quoted})::text` : `t.${quoted}`
  await using connection = await db.connection()
  await connection.query('begin read only')
  try {
    await connection.query(
      `declare values_read no scroll cursor for
       select ${value} as value from ${table.name} t ${sample}
       where t.${quoted} is not null${that === undefined ? '' : ` and ${value} ${that}`}`,
    )
    for (;;) {
      const rows = await connection.query<{ value: string | Buffer }>(`fetch ${BATCH_ROWS} from values_read`)
      if (rows.length === 0) return
      yield rows.map((row) => row.value)
    }
  } finally {
    await connection.query('rollback')
  }
}

/** Whether this login sees no row at all. */
export async function seesNothing(db: Queryable, { name }: LiveTable): Promise<boolean> {
  return (await db.query(`select from ${name} limit 1`)).length === 0
}

export const isSampled = ({ bytes }: LiveTable, all: boolean): boolean => !all && bytes > READ_WHOLE_BYTES
