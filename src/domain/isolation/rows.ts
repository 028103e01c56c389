import { randomBytes, randomUUID } from 'node:crypto'
import pg from 'pg'
import type { Connection } from '../../adapters/postgres/client.ts'

interface ColumnShape {
  name: string
  /** With length and precision, for casts. */
  type: string
  /** Of a domain the type below it; of an array its element's with []. */
  base: string
  length: number | null
  labels: string[]
  required: boolean
  /** The server makes it: generated, or identity. */
  made: boolean
}

interface CheckShape {
  name: string
  columns: string[]
  definition: string
}

/** What a table wants of a row. */
export interface TableShape {
  name: string
  columns: Map<string, ColumnShape>
  checks: CheckShape[]
  parents: { name: string; columns: string[]; table: string; referenced: string[] }[]
  /** Literals of the bounds of its partitions. */
  bounds: string[]
  /** Columns that the partitioning goes by. */
  partitionedBy: string[]
}

/** A row as it was stored: every value as text. */
export type StoredRow = Record<string, string | null>

/** Who inserts, and with which tenant set. */
export type Inserter = (sql: string) => Promise<StoredRow>

/** Reads what every table wants of a row. */
export async function readShapes(db: Connection): Promise<Map<string, TableShape>> {
  const rows = await db.query<{
    name: string
    columns: ColumnShape[]
    checks: CheckShape[] | null
    parents: TableShape['parents'] | null
    bounds: string[]
    partitionedBy: string[]
  }>(
    `with domains as (
       select t.oid, k.conname, pg_get_constraintdef(k.oid) as definition
       from pg_type t join pg_constraint k on k.contypid = t.oid and k.contype = 'c')
     select format('%I.%I', n.nspname, c.relname) as name,
       (select json_agg(json_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
            'base', format_type(case when t.typtype = 'd' then t.typbasetype else t.oid end, null),
            'length', case when greatest(a.atttypmod, t.typtypmod) > 4 and
              (case when t.typtype = 'd' then t.typbasetype else t.oid end) in (1042, 1043)
              then greatest(a.atttypmod, t.typtypmod) - 4 end,
            'labels', array(select e.enumlabel from pg_enum e
              where e.enumtypid = case when t.typtype = 'd' then t.typbasetype else t.oid end order by e.enumsortorder),
            'required', (a.attnotnull or t.typnotnull) and not a.atthasdef and t.typdefault is null,
            'made', a.attgenerated <> '' or a.attidentity <> '') order by a.attnum)
        from pg_attribute a join pg_type t on t.oid = a.atttypid
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) as columns,
       (select json_agg(json_build_object('name', name, 'columns', columns, 'definition', definition)) from (
          select k.conname as name, pg_get_constraintdef(k.oid) as definition,
            array(select a.attname from pg_attribute a where a.attrelid = c.oid and a.attnum = any(k.conkey)) as columns
          from pg_constraint k where k.conrelid = c.oid and k.contype = 'c'
          union all
          select d.conname, d.definition, array[a.attname] from pg_attribute a join domains d on d.oid = a.atttypid
          where a.attrelid = c.oid and a.attnum > 0) every_check) as checks,
       (select json_agg(json_build_object('name', k.conname, 'table', format('%I.%I', pn.nspname, p.relname),
            'columns', array(select a.attname from unnest(k.conkey) with ordinality u (k, n)
              join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.k order by u.n),
            'referenced', array(select a.attname from unnest(k.confkey) with ordinality u (k, n)
              join pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.k order by u.n)))
        from pg_constraint k join pg_class p on p.oid = k.confrelid join pg_namespace pn on pn.oid = p.relnamespace
        where k.conrelid = c.oid and k.contype = 'f') as parents,
       array(select pg_get_expr(part.relpartbound, part.oid) from pg_inherits i join pg_class part on part.oid = i.inhrelid
             where i.inhparent = c.oid and part.relispartition order by part.relname limit 50) as bounds,
       array(select a.attname::text from pg_partitioned_table pt, unnest(pt.partattrs) k
             join pg_attribute a on a.attnum = k where pt.partrelid = c.oid and a.attrelid = c.oid) as "partitionedBy"
     from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'`,
  )
  return new Map(
    rows.map(({ name, columns, checks, parents, bounds, partitionedBy }) => [
      name,
      {
        name,
        columns: new Map(columns.map((column) => [column.name, column])),
        checks: checks ?? [],
        parents: parents ?? [],
        // Modulus and remainder of a hash are no values.
        bounds: bounds.filter((one) => !one.startsWith('FOR VALUES WITH')).flatMap(literalsOf),
        partitionedBy,
      },
    ]),
  )
}

/** Why a table got no row. */
export class NoRow extends Error {}

/**
 * Makes rows that tables accept: values by type, parents first, and where a check refuses a value, the values that its
 * own text names. What it learns of a table it keeps for the next row.
 */
export class RowMaker {
  readonly #shapes: Map<string, TableShape>
  readonly #learned = new Map<string, Map<string, string>>()
  #count = 1

  constructor(shapes: Map<string, TableShape>) {
    this.#shapes = shapes
  }

  shape(table: string): TableShape | undefined {
    return this.#shapes.get(table)
  }

  /**
   * The statement that inserts a fresh row: `given` decides columns, `only` are the columns that may be named (of a role
   * with column privileges).
   */
  insert(table: string, given: StoredRow, only?: ReadonlySet<string>): string {
    const shape = this.#shapes.get(table)
    if (!shape) throw new NoRow('its shape is not known')
    const learned = this.#learned.get(table)
    const values = new Map<string, string | null>()
    for (const column of shape.columns.values()) {
      const wanted = given[column.name]
      if (wanted !== undefined) values.set(column.name, wanted)
      else if (learned?.has(column.name)) values.set(column.name, learned.get(column.name)!)
      else if (column.required && !column.made)
        values.set(column.name, firstListed(shape, column) ?? this.#value(column))
    }
    if (only) for (const name of values.keys()) if (!only.has(name)) values.delete(name)
    const made = [...values.keys()].some((name) => shape.columns.get(name)?.made)
    const columns = [...values.keys()].map(pg.escapeIdentifier).join(', ')
    const cells = [...values].map(([name, value]) => cast(value, shape.columns.get(name)!.type)).join(', ')
    if (values.size === 0) return `insert into ${table} default values`
    return `insert into ${table} (${columns})${made ? ' overriding system value' : ''} values (${cells})`
  }

  /** The same, which returns the row as it is stored. */
  insertReturning(table: string, given: StoredRow): string {
    const returning = [...(this.#shapes.get(table)?.columns.keys() ?? [])]
      .map((name) => `${pg.escapeIdentifier(name)}::text as ${pg.escapeIdentifier(name)}`)
      .join(', ')
    return `${this.insert(table, given)} returning ${returning}`
  }

  /**
   * Inserts a fresh row and returns it as it was stored.
   * @throws NoRow with the server's reason, when every try was refused.
   */
  async store(table: string, given: StoredRow, insert: Inserter): Promise<StoredRow> {
    const shape = this.#shapes.get(table)
    if (!shape) throw new NoRow('its shape is not known')
    const tryIt = () => insert(this.insertReturning(table, given))
    let failure: pg.DatabaseError
    try {
      return await tryIt()
    } catch (error) {
      if (!(error instanceof pg.DatabaseError)) throw error
      failure = error
    }
    for (let tries = 0, tried = new Set<string>(); failure.code === '23514' && tries < 80; ) {
      const next = this.#otherValues(shape, failure, given).find((one) => !tried.has(JSON.stringify(one)))
      if (next === undefined) break
      tried.add(JSON.stringify(next))
      const learned = this.#learned.get(table) ?? new Map<string, string>()
      const before = new Map(learned)
      for (const [name, value] of Object.entries(next)) learned.set(name, value)
      this.#learned.set(table, learned)
      try {
        return await tryIt()
      } catch (error) {
        if (!(error instanceof pg.DatabaseError)) throw error
        // Another check that refuses means that this one is content.
        if (error.code === '23514' && error.constraint !== failure.constraint) {
          tried = new Set()
          failure = error
        } else this.#learned.set(table, before)
        tries += 1
      }
    }
    throw new NoRow(failure.message)
  }

  #otherValues(
    { columns, checks, bounds, partitionedBy }: TableShape,
    error: pg.DatabaseError,
    given: StoredRow,
  ) {
    const check = checks.find(({ name }) => name === error.constraint)
    const names = check ? check.columns : partitionedBy
    const literals = check ? literalsOf(check.definition) : bounds
    const free = names.flatMap((name) => {
      const column = columns.get(name)
      return column && !column.made && given[name] === undefined ? [column] : []
    })
    const choices = free.map((column) => ({ column, values: this.#candidates(column, literals) }))
    const single = choices.flatMap(({ column, values }) => values.map((value) => ({ [column.name]: value })))
    const [first, second] = choices
    if (!first || !second) return single
    const pairs = first.values.flatMap((a) =>
      second.values.map((b) => ({ [first.column.name]: a, [second.column.name]: b })),
    )
    return [...single, ...pairs]
  }

  #candidates(column: ColumnShape, literals: string[]): string[] {
    if (column.labels.length > 0) return column.labels
    const numeric = NUMERIC.test(column.base)
    const temporal = /^(date|timestamp)/.test(column.base)
    const fitting = literals.filter((literal) =>
      numeric ? /^-?\d+(\.\d+)?$/.test(literal) : !temporal || /^\d{4}-|^\d+ /.test(literal),
    )
    const around = numeric
      ? fitting.flatMap((one) => [one, String(Number(one) + 1), String(Number(one) - 1)])
      : fitting
    const usual = numeric
      ? // The last is more than the sum of what other columns hold, for checks that compare them.
        ['1', '0', '10', '100', '-1', column.base === 'smallint' ? '30000' : '1000000']
      : /char|text/.test(column.base)
        ? [
            'a',
            'A',
            'abc',
            'ABC',
            '1',
            '12345',
            'a@example.org',
            '+93700000000',
            'https://example.org',
            'AFN',
            'en',
          ]
        : temporal
          ? ['2100-01-01', '2000-01-01']
          : column.base === 'boolean'
            ? ['true', 'false']
            : []
    return [...new Set([...around, ...usual, this.#value(column)])]
  }

  #value({ base, length, labels }: ColumnShape): string {
    if (labels.length > 0) return labels[0]!
    if (base.endsWith('[]')) return '{}'
    this.#count += 1
    const n = this.#count
    if (NUMERIC.test(base)) return base === 'smallint' ? String(n % 32_000) : String(n)
    if (/char|text|^citext$|^name$/.test(base))
      return randomBytes(8)
        .toString('hex')
        .slice(0, Math.min(length ?? 16, 16))
    if (/^timestamp/.test(base)) return new Date().toISOString()
    return VALUES[base]?.() ?? ''
  }
}

const NUMERIC = /^(smallint|integer|bigint|numeric|real|double precision|money|oid)$/

const VALUES: Record<string, () => string> = {
  uuid: () => randomUUID(),
  boolean: () => 'false',
  date: () => new Date().toISOString().slice(0, 10),
  'time without time zone': () => '12:00',
  'time with time zone': () => '12:00+00',
  interval: () => '1 day',
  json: () => '{}',
  jsonb: () => '{}',
  bytea: () => `\\x${randomBytes(8).toString('hex')}`,
  inet: () => '192.0.2.1',
  cidr: () => '192.0.2.0/24',
  macaddr: () => '02:00:00:00:00:01',
  xml: () => '<a/>',
  point: () => '(0,0)',
  int4range: () => '[1,2)',
  int8range: () => '[1,2)',
  numrange: () => '[1,2)',
  daterange: () => '[2026-01-01,2026-01-02)',
  tsrange: () => '[2026-01-01,2026-01-02)',
  tstzrange: () => '[2026-01-01,2026-01-02)',
  ltree: () => 'a',
}

/** The first of the values that a check lists for a column. */
function firstListed({ checks }: TableShape, { name }: ColumnShape): string | undefined {
  const check = checks.find(({ columns }) => columns.length === 1 && columns[0] === name)
  return check?.definition.includes('ARRAY[') ? literalsOf(check.definition)[0] : undefined
}

function literalsOf(text: string): string[] {
  const strings = [...text.matchAll(/'((?:[^']|'')*)'/g)].map(([, one]) => one!.replaceAll("''", "'"))
  const numbers = [...text.replace(/'(?:[^']|'')*'/g, ' ').matchAll(/-?\b\d+(?:\.\d+)?\b/g)].map(
    ([one]) => one,
  )
  return [...new Set([...strings, ...numbers])]
}

function cast(value: string | null, type: string): string {
  return value === null ? 'null' : `${pg.escapeLiteral(value)}::${type}`
}
