import pg from 'pg'
import type { Connection, Database } from '../../adapters/postgres/client.ts'
import type { Finding } from '../../finding.ts'
import type { Catalog, Relation } from './catalog.ts'
import { columnName, type Judging } from './confinement.ts'
import type { StoredRow } from './rows.ts'
import { finding } from './rules/family.ts'
import { tellsOfOthers } from './rules/keys.ts'
import { rulesOf } from './rules.ts'
import { kept, rolledBack, type Seeded, Seeding } from './seed.ts'
import type { TenantTables } from './tenant-tables.ts'

/** What the attempts look for; a finding's id is one of these. */
export const ATTEMPT_RULES = rulesOf('attempts', {
  'live-read': 'no row of another tenant can be read',
  'live-insert': 'no row can be inserted for another tenant',
  'live-update': 'no row of another tenant can be changed',
  'live-move': 'no row can be moved to another tenant',
  'live-delete': 'no row of another tenant can be deleted',
  'live-reference': "no row can point at another tenant's",
  'live-cascade': "no tenant's deletion reaches another's rows",
  'live-oracle': "no refusal tells of another tenant's rows",
  'live-copy': 'COPY shows no row of another tenant',
  'live-side-effect': "no trigger touches another tenant's rows",
  'live-not-attempted': 'every tenant table could be tried',
})

type AttemptRule =
  | 'live-read'
  | 'live-insert'
  | 'live-update'
  | 'live-move'
  | 'live-delete'
  | 'live-reference'
  | 'live-oracle'

type LiveRule = AttemptRule | 'live-copy' | 'live-cascade' | 'live-side-effect'

/** One statement of the application's role that must find nothing to do. */
interface Attempt {
  rule: AttemptRule
  relation: string
  sql: string
  /** More rows than this are another tenant's. */
  allowed: number
  /** SQLSTATEs that give another tenant away, though the statement is refused. */
  telling?: string[]
  /** What it shows, for the operator. */
  says: string
  /** Whether the rows are counted by the statement itself or are those it touched. */
  counts: 'result' | 'touched'
}

interface Outcome {
  n: number | null
  state: string | null
}

// Keys are checked after the policy has let a row through.
const PASSED = ['23503', '23505']

export interface AttemptOptions {
  judging: Judging
  tenants: TenantTables
  /** On a database that others use: no blind writes, no change of tables. */
  careful: boolean
}

export interface AttemptResult {
  findings: Finding[]
  /** How many statements were tried. */
  attempts: number
  /** Tables that were tried, of those that the role can reach. */
  tried: number
  reachable: number
}

/**
 * Tries, as the application's role, to reach rows of a tenant that is not the session's: with none set, with '', with one
 * that never existed, and as one tenant against another. Everything is rolled back (on a copy the rows that are tried for
 * stay, until the copy is dropped), with short lock and statement time-outs. A table in which no row can be made is told as not attempted.
 */
export async function attemptCrossings(
  { db }: { db: Database },
  options: AttemptOptions,
): Promise<AttemptResult> {
  await using seeding = await begin(db)
  await using trying = await begin(db)
  return await new Attempts(seeding, trying, options).run()
}

/** A transaction that ends in a rollback. */
async function begin(db: Database): Promise<Connection> {
  const connection = await db.connection()
  await connection.raw.query(`begin; set local lock_timeout = '2s'; set local statement_timeout = '30s'`)
  return {
    ...connection,
    async [Symbol.asyncDispose]() {
      await connection.raw.query('rollback').catch(() => {})
      await connection[Symbol.asyncDispose]()
    },
  }
}

class Attempts {
  /** Where rows are made; on a copy they are committed there, so that the stranger begins as a new client does. */
  readonly #seeding: Connection
  /** A session that has never set the tenant. */
  readonly #stranger: Connection
  #connection: Connection
  readonly #options: AttemptOptions
  readonly #judging: Judging
  readonly #catalog: Catalog
  readonly #careful: boolean
  readonly #role: string
  /** By rule and table, what was done. */
  readonly #hits = new Map<string, { rule: LiveRule; relation: string; says: Set<string> }>()
  #rows!: Seeding
  #attempts = 0

  constructor(seeding: Connection, stranger: Connection, options: AttemptOptions) {
    this.#seeding = seeding
    this.#stranger = stranger
    this.#connection = seeding
    this.#options = options
    this.#judging = options.judging
    this.#catalog = options.judging.catalog
    this.#careful = options.careful
    this.#role = pg.escapeIdentifier(this.#catalog.role.name)
  }

  async run(): Promise<AttemptResult> {
    this.#rows = await Seeding.open(this.#seeding, this.#options)
    const { refused, telling } = this.#rows
    const targets = this.#rows.targets()
    const reachable = targets.length
    const cannot = await this.#try(`set local role ${this.#role}; reset role`)
    if (cannot) return this.#nothing(`may not become ${this.#role}: ${cannot}`, reachable)
    const seeded = await this.#rows.seed(targets)
    for (const name of telling) {
      this.#hit('live-read', name, 'shows what one tenant has written to a tenant that never existed')
    }
    if (!this.#careful) {
      await this.#seeding.raw.query('commit')
      this.#connection = this.#stranger
    }
    await this.#readColumnPrivileges(seeded)
    await this.#attemptAll(seeded)
    const findings = [...this.#hits.values()].map(({ rule, relation, says }) =>
      finding(rule, relation, [...says].join('; '), { severity: 'critical' }),
    )
    if (refused.size > 0) {
      const object = `${refused.size} of ${reachable} tables`
      const message = 'nothing was tried in them, since no row could be made'
      const evidence = Object.fromEntries([...refused].slice(0, 50))
      findings.push(finding('live-not-attempted', object, message, { severity: 'info', evidence }))
    }
    return { findings, attempts: this.#attempts, tried: seeded.length, reachable }
  }

  #nothing(reason: string, reachable: number): AttemptResult {
    const only = finding('live-not-attempted', this.#catalog.database, `nothing was tried: ${reason}`, {
      severity: 'warning',
      fix: `grant ${this.#role} to <the role that checks>;`,
    })
    return { findings: [only], attempts: 0, tried: 0, reachable }
  }

  async #attemptAll(seeded: Seeded[]): Promise<void> {
    const { names } = this.#rows
    const strangers = seeded.flatMap((one) => this.#asStranger(one))
    for (const [tenant, who] of [
      [undefined, 'with no tenant set'],
      ['', "with '' set"],
      [names.never, 'as a tenant that never existed'],
    ] as const) {
      await this.#execute(strangers, tenant, who, tenant === undefined ? this.#stranger : this.#connection)
    }
    const both = seeded.filter(({ soleTenant }) => !soleTenant)
    await this.#execute(
      both.flatMap((one) => this.#asTenant(one, both)),
      names.a,
      'as one tenant',
    )
    await this.#copies(both, names.a)
    await this.#cascades(both)
    await this.#sideEffects(both)
  }

  #asStranger({ relation, b, columns }: Seeded): Attempt[] {
    const { name, privileges } = relation
    const attempts: Attempt[] = []
    const add = (rule: AttemptRule, sql: string, says: string, more: Partial<Attempt> = {}) =>
      attempts.push({ rule, relation: name, sql, says, allowed: 0, counts: 'touched', ...more })
    if (privileges.has('SELECT')) {
      add('live-read', `select count(*) from (select from ${name} limit 1) one`, 'rows can be read', {
        counts: 'result',
      })
    }
    if (privileges.has('INSERT'))
      add('live-insert', this.#freshRow(name, b, columns), 'a row can be inserted', { telling: PASSED })
    const change = this.#assignment(relation, b)
    if (privileges.has('UPDATE') && change) {
      add(
        'live-update',
        `update ${name} set ${change}${this.#onlyOf(relation, b, columns)}`,
        'rows can be changed',
      )
    }
    if (privileges.has('DELETE')) {
      add('live-delete', `delete from ${name}${this.#onlyOf(relation, b, columns)}`, 'rows can be deleted', {
        telling: ['23503', '23001'],
      })
    }
    return attempts
  }

  #asTenant({ relation, a, b, ownA, columns }: Seeded, seeded: Seeded[]): Attempt[] {
    const { name, privileges } = relation
    const attempts: Attempt[] = []
    const add = (rule: AttemptRule, sql: string, says: string, more: Partial<Attempt> = {}) =>
      attempts.push({ rule, relation: name, sql, says, allowed: ownA, counts: 'touched', ...more })
    const [tenantColumn] = columns
    if (privileges.has('SELECT')) {
      add(
        'live-read',
        `select count(*) from (select from ${name} limit ${ownA + 1}) some`,
        "another's rows can be read",
        { counts: 'result' },
      )
    }
    if (privileges.has('INSERT')) {
      add('live-insert', this.#freshRow(name, b, columns), 'a row can be inserted for another', {
        allowed: 0,
      })
    }
    const change = this.#assignment(relation, a)
    if (privileges.has('UPDATE') && change) {
      add(
        'live-update',
        `update ${name} set ${change}${this.#onlyOf(relation, b, columns)}`,
        "another's rows can be changed",
        {
          allowed: this.#careful ? 0 : ownA,
        },
      )
    }
    if (privileges.has('UPDATE') && tenantColumn) {
      const type = this.#rows.maker.shape(name)?.columns.get(tenantColumn)?.type
      const target = `${pg.escapeLiteral(this.#rows.names.b)}::${type}`
      const column = pg.escapeIdentifier(tenantColumn)
      add(
        'live-move',
        `update ${name} set ${column} = ${target}${this.#onlyOf(relation, a, columns)}`,
        'its own rows can be moved to another',
        {
          allowed: 0,
          telling: PASSED,
        },
      )
    }
    if (privileges.has('DELETE')) {
      add(
        'live-delete',
        `delete from ${name}${this.#onlyOf(relation, b, columns)}`,
        "another's rows can be deleted",
        {
          allowed: this.#careful ? 0 : ownA,
        },
      )
    }
    if (privileges.has('INSERT')) {
      for (const { sql, key } of this.#references(relation, a, seeded)) {
        add('live-reference', sql, `${key} accepts another's row`, { allowed: 0 })
      }
      for (const index of this.#catalog.uniqueIndexes) {
        if (index.relation !== relation.oid || !tellsOfOthers(this.#judging, this.#options.tenants, index))
          continue
        const key = Object.fromEntries(
          index.columns.map((number) => [
            columnName(relation, number),
            b[columnName(relation, number)] ?? null,
          ]),
        )
        if ('' in key) continue
        add(
          'live-oracle',
          this.#freshRow(name, { ...this.#keys(name, a, columns), ...key }, Object.keys(key)),
          `${index.name} refuses what another has`,
          {
            allowed: Number.MAX_SAFE_INTEGER,
            telling: ['23505', '23P01'],
          },
        )
      }
    }
    return attempts
  }

  /** Rows of A that point at a parent of B's. */
  #references(relation: Relation, a: StoredRow, seeded: Seeded[]): { sql: string; key: string }[] {
    const own = this.#judging.tenantColumns(relation)
    return this.#catalog.foreignKeys.flatMap((key) => {
      if (key.relation !== relation.oid || key.references === relation.oid) return []
      const parent = seeded.find((one) => one.relation.oid === key.references)
      if (!parent) return []
      const given = this.#keys(relation.name, a, [...own])
      let foreign = 0
      key.columns.forEach((number, i) => {
        const name = columnName(relation, number)
        if (own.has(name)) return
        given[name] = parent.b[columnName(parent.relation, key.referenced[i]!)] ?? null
        if (given[name] !== null) foreign += 1
      })
      if (foreign === 0) return []
      return [{ sql: this.#freshRow(relation.name, given, Object.keys(given)), key: key.name }]
    })
  }

  /** The tenant and the parents of a stored row. */
  #keys(table: string, row: StoredRow, columns: string[]): StoredRow {
    const names = [
      ...columns,
      ...(this.#rows.maker.shape(table)?.parents ?? []).flatMap((key) => key.columns),
    ]
    return Object.fromEntries(
      names.filter((name) => row[name] !== undefined).map((name) => [name, row[name]!]),
    )
  }

  /** A fresh row with the keys of a stored one, of columns that the role may write. */
  #freshRow(table: string, row: StoredRow, columns: string[]): string {
    const given = {
      ...this.#keys(table, row, columns),
      ...Object.fromEntries(columns.map((name) => [name, row[name] ?? null])),
    }
    return this.#rows.maker.insert(table, given, this.#insertable.get(table))
  }

  /** On a database that others use only rows of our own are touched: by their tenant, or by their own key. */
  #onlyOf({ oid }: Relation, row: StoredRow, columns: string[]): string {
    if (!this.#careful) return ''
    const primary = this.#catalog.uniqueIndexes.find((index) => index.relation === oid && index.primary)
    const key = primary?.columns.map((number) => columnName(this.#catalog.relations.get(oid)!, number)) ?? []
    const parts = (columns.length > 0 ? columns.slice(0, 1) : key).map(
      (column) => `${pg.escapeIdentifier(column)}::text = ${pg.escapeLiteral(row[column] ?? '')}`,
    )
    return ` where ${parts.join(' and ') || 'false'}`
  }

  readonly #insertable = new Map<string, Set<string>>()
  readonly #updatable = new Map<string, Set<string>>()

  /** An assignment that reads nothing, so that only the policies for writing stand in its way. */
  #assignment({ oid, name }: Relation, row: StoredRow): string | undefined {
    const may = this.#updatable.get(name)
    const shape = this.#rows.maker.shape(name)
    const relation = this.#catalog.relations.get(oid)!
    const keys = new Set([
      ...this.#judging.tenantColumns(relation),
      ...(shape?.partitionedBy ?? []),
      ...(shape?.parents ?? []).flatMap((parent) => parent.columns),
      ...this.#catalog.uniqueIndexes.flatMap((index) =>
        index.relation === oid ? index.columns.map((number) => columnName(relation, number)) : [],
      ),
    ])
    const fit = [...(shape?.columns.values() ?? [])].filter((one) => !one.made && may?.has(one.name))
    const column = fit.find((one) => !keys.has(one.name)) ?? fit[0]
    if (!column) return undefined
    const value = row[column.name] ?? null
    return `${pg.escapeIdentifier(column.name)} = ${value === null ? 'null' : `${pg.escapeLiteral(value)}::${column.type}`}`
  }

  async #readColumnPrivileges(seeded: Seeded[]): Promise<void> {
    const { rows } = await this.#connection.raw.query(
      `select format('%I.%I', n.nspname, c.relname) as name,
         array(select attname::text from pg_attribute a where a.attrelid = c.oid and attnum > 0 and not attisdropped
               and has_column_privilege($1, c.oid, attnum, 'INSERT')) as insertable,
         array(select attname::text from pg_attribute a where a.attrelid = c.oid and attnum > 0 and not attisdropped
               and has_column_privilege($1, c.oid, attnum, 'UPDATE')) as updatable
       from pg_class c join pg_namespace n on n.oid = c.relnamespace
       where format('%I.%I', n.nspname, c.relname) = any($2)`,
      [this.#catalog.role.name, seeded.map(({ relation }) => relation.name)],
    )
    for (const { name, insertable, updatable } of rows) {
      this.#insertable.set(name, new Set(insertable))
      this.#updatable.set(name, new Set(updatable))
    }
  }

  /** Executes attempts as the role; none sees what another did. */
  async #execute(
    attempts: Attempt[],
    tenant: string | undefined,
    who: string,
    { raw } = this.#connection,
  ): Promise<void> {
    if (attempts.length === 0) return
    this.#attempts += attempts.length
    await raw.query('savepoint attempts')
    try {
      await raw.query(`set local role ${this.#role}`)
      if (tenant !== undefined) await raw.query(this.#rows.setTenant(tenant))
      this.#judge(attempts, await this.#perform(raw, attempts), who)
    } catch (error) {
      this.#rows.refused.set(`attempts ${who}`, (error as Error).message)
    } finally {
      await raw.query('rollback to savepoint attempts; release savepoint attempts')
    }
  }

  /** Each statement in a block of its own, which is rolled back unless it keeps what it did. */
  async #perform(
    raw: Connection['raw'],
    statements: { sql: string; counts: string; keeps?: boolean }[],
  ): Promise<Outcome[]> {
    await raw.query(`select set_config('tabib.attempts', $1, true)`, [JSON.stringify(statements)])
    await raw.query(PERFORM)
    const { rows } = await raw.query(`select current_setting('tabib.attempts')::json as outcomes`)
    return rows[0].outcomes
  }

  #judge(attempts: Attempt[], outcomes: Outcome[], who: string): void {
    attempts.forEach(({ rule, relation, allowed, telling, says }, i) => {
      const { n, state } = outcomes[i] ?? { n: null, state: null }
      if ((n !== null && n > allowed) || (state !== null && telling?.includes(state)))
        this.#hit(rule, relation, `${says} ${who}`)
    })
  }

  async #copies(seeded: Seeded[], tenant: string): Promise<void> {
    const readable = seeded.filter(({ relation }) => relation.privileges.has('SELECT'))
    if (this.#careful || readable.length === 0) return
    this.#attempts += readable.length
    const copy = async (some: Seeded[]) => {
      // Partitioned tables are copied as a query only.
      const statements = some.map(({ relation: { kind, name } }) =>
        kind === 'partitioned' ? `copy (select * from ${name}) to stdout` : `copy ${name} to stdout`,
      )
      const results = await rolledBack(this.#connection.raw, this.#rows.become(tenant), ...statements)
      results.slice(-some.length).forEach(({ rowCount }, i) => {
        const { relation, ownA } = some[i]!
        if ((rowCount ?? 0) > ownA) this.#hit('live-copy', relation.name, "copies another's rows")
      })
    }
    // One that is refused, of columns that may not be read, takes the others with it.
    await copy(readable).catch(async () => {
      for (const one of readable) await copy([one]).catch(() => {})
    })
  }

  /** Where a row of A may hang on a parent of B's: B deletes the parent, and A's row must still be there. */
  async #cascades(seeded: Seeded[]): Promise<void> {
    const raw = this.#connection.raw
    const { names } = this.#rows
    for (const key of this.#catalog.foreignKeys) {
      if (key.onDelete !== 'cascade') continue
      const child = seeded.find(({ relation }) => relation.oid === key.relation)
      const parent = seeded.find(({ relation }) => relation.oid === key.references)
      if (!child || !parent || !this.#hits.has(`live-reference ${child.relation.name}`)) continue
      if (!parent.relation.privileges.has('DELETE')) continue
      const crossing = this.#references(child.relation, child.a, [parent]).find((one) => one.key === key.name)
      if (!crossing) continue
      this.#attempts += 1
      await raw.query('savepoint cascade')
      try {
        await raw.query(`set local role ${this.#role}; ${this.#rows.setTenant(names.a)}`)
        await raw.query(crossing.sql)
        const count = async () =>
          Number((await raw.query(`select count(*) as n from ${child.relation.name}`)).rows[0].n)
        const before = await count()
        await raw.query(`${this.#rows.setTenant(names.b)}; delete from ${parent.relation.name}`)
        await raw.query(this.#rows.setTenant(names.a))
        if ((await count()) < before)
          this.#hit(
            'live-cascade',
            child.relation.name,
            `${key.name} deletes rows of one tenant with another's`,
          )
      } catch {
        // Refused: nothing was reached.
      } finally {
        await raw.query('rollback to savepoint cascade; release savepoint cascade')
      }
    }
  }

  /** A writes where it may; what other tenants have must be as before. */
  async #sideEffects(seeded: Seeded[]): Promise<void> {
    const { names } = this.#rows
    const raw = this.#connection.raw
    const withTriggers = new Set(
      this.#catalog.attached.filter(({ kind }) => kind === 'trigger').map(({ relation }) => relation),
    )
    const writing = seeded.filter(({ relation }) => withTriggers.has(relation.oid))
    if (writing.length === 0 || this.#careful) return
    const prints = seeded.flatMap(({ relation: { name }, columns: [column] }) => {
      if (column === undefined) return []
      const theirs = `${pg.escapeIdentifier(column)}::text = ${pg.escapeLiteral(names.b)}`
      return `select ${pg.escapeLiteral(name)} as name, concat(count(*), ' ', coalesce(sum(hashtext(one::text)), 0)) as seen from ${name} one where ${theirs}`
    })
    const fingerprint = async () => {
      const { rows } = await raw.query<{ name: string; seen: string }>(prints.join(' union all '))
      return new Map(rows.map(({ name, seen }) => [name, seen]))
    }
    const writesTo = ({ relation, a, columns }: Seeded) => {
      const { privileges, name } = relation
      const change = this.#assignment(relation, a)
      return [
        ...(privileges.has('INSERT') ? [this.#freshRow(name, a, columns)] : []),
        ...(privileges.has('UPDATE') && change ? [`update ${name} set ${change}`] : []),
        ...(privileges.has('DELETE') ? [`delete from ${name}`] : []),
      ]
    }
    await raw.query('savepoint effects')
    try {
      await this.#rows.unforce(this.#connection)
      const before = await fingerprint()
      /** The tables of B that it changes when A writes to these. */
      const changedBy = async (some: Seeded[]) => {
        const writes = some.flatMap(writesTo).map((sql) => ({ sql, counts: 'touched', keeps: true }))
        await raw.query('savepoint written')
        await raw.query(this.#rows.become(names.a))
        await this.#perform(raw, writes)
        await raw.query('reset role')
        const after = await fingerprint()
        await raw.query('rollback to savepoint written; release savepoint written')
        this.#attempts += writes.length
        return [...before].flatMap(([table, seen]) => (after.get(table) === seen ? [] : [table]))
      }
      if ((await changedBy(writing)).length === 0) return
      for (const one of writing) {
        for (const table of await changedBy([one])) {
          const says = `writing here changes another tenant's rows in ${table}`
          this.#hit('live-side-effect', one.relation.name, says)
        }
      }
    } catch (error) {
      this.#rows.refused.set('triggers', (error as Error).message)
    } finally {
      await raw.query('rollback to savepoint effects; release savepoint effects')
    }
  }

  #hit(rule: LiveRule, relation: string, says: string): void {
    const known = this.#hits.get(`${rule} ${relation}`) ?? { rule, relation, says: new Set() }
    known.says.add(says)
    this.#hits.set(`${rule} ${relation}`, known)
  }

  /** Runs one statement and keeps its effect; the server's message where it refused. */
  async #try(sql: string): Promise<string | undefined> {
    try {
      await kept(this.#connection.raw, sql)
      return undefined
    } catch (error) {
      return (error as Error).message
    }
  }
}

const PERFORM = `
  do $tabib$
  declare
    one jsonb;
    n bigint;
    outcomes jsonb := '[]';
  begin
    for one in select * from jsonb_array_elements(current_setting('tabib.attempts')::jsonb) loop
      n := null;
      begin
        if one->>'counts' = 'result' then execute one->>'sql' into n;
        else
          execute one->>'sql';
          get diagnostics n = row_count;
          set constraints all immediate;
        end if;
        if one ? 'keeps' then
          continue;
        end if;
        raise exception using errcode = 'TB001';
      exception
        when sqlstate 'TB001' then outcomes := outcomes || jsonb_build_object('n', n, 'state', null);
        when others then outcomes := outcomes || jsonb_build_object('n', null, 'state', sqlstate);
      end;
    end loop;
    perform set_config('tabib.attempts', outcomes::text, true);
  end
  $tabib$`
