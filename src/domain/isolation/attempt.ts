import { randomBytes, randomInt, randomUUID } from 'node:crypto'
import pg from 'pg'
import type { Connection, Database } from '../../adapters/postgres/client.ts'
import type { Finding } from '../../finding.ts'
import type { Catalog, Relation } from './catalog.ts'
import { columnName, type Judging, settingsFor } from './confinement.ts'
import { NoRow, RowMaker, readShapes, type StoredRow } from './rows.ts'
import { finding } from './rules/family.ts'
import { tellsOfOthers } from './rules/keys.ts'
import { rulesOf } from './rules.ts'
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

/** A table that both tenants have a row in. */
interface Seeded {
  relation: Relation
  columns: string[]
  a: StoredRow
  b: StoredRow
  /** How many of its rows are A's, as the owner counts them. */
  ownA: number
  /** Whether only one of them can have rows in it. */
  soleTenant: boolean
}

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
  readonly #judging: Judging
  readonly #catalog: Catalog
  readonly #tenants: TenantTables
  readonly #careful: boolean
  readonly #role: string
  readonly #byName: Map<string, Relation>
  readonly #refused = new Map<string, string>()
  readonly #hits = new Map<
    string,
    {
      rule: AttemptRule | 'live-copy' | 'live-cascade' | 'live-side-effect'
      relation: string
      says: Set<string>
    }
  >()
  #maker!: RowMaker
  #attempts = 0

  constructor(seeding: Connection, stranger: Connection, { judging, tenants, careful }: AttemptOptions) {
    this.#seeding = seeding
    this.#stranger = stranger
    this.#connection = seeding
    this.#judging = judging
    this.#catalog = judging.catalog
    this.#tenants = tenants
    this.#careful = careful
    this.#byName = new Map([...this.#catalog.relations.values()].map((one) => [one.name, one]))
    this.#role = pg.escapeIdentifier(judging.catalog.role.name)
  }

  async run(): Promise<AttemptResult> {
    const targets = this.#targets()
    const reachable = targets.length
    const cannot = await this.#try(`set local role ${this.#role}; reset role`)
    if (cannot) return this.#nothing(`may not become ${this.#role}: ${cannot}`, reachable)
    this.#maker = new RowMaker(await readShapes(this.#connection))
    const names = this.#tenantNames()
    const seeded = await this.#seed(targets, names)
    if (!this.#careful) {
      await this.#seeding.raw.query('commit')
      this.#connection = this.#stranger
    }
    await this.#readColumnPrivileges(seeded)
    await this.#attemptAll(seeded, names)
    const findings = [...this.#hits.values()].map(({ rule, relation, says }) =>
      finding(rule, relation, [...says].join('; '), { severity: 'critical' }),
    )
    if (this.#refused.size > 0) {
      const evidence = Object.fromEntries([...this.#refused].slice(0, 50))
      findings.push(
        finding(
          'live-not-attempted',
          `${this.#refused.size} of ${reachable} tables`,
          'nothing was tried in them, since no row could be made',
          { severity: 'info', evidence },
        ),
      )
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

  /** Tenant tables that the role can reach, parents before children where keys say so. */
  #targets(): Relation[] {
    return [...this.#tenants.tables.keys()].flatMap((oid) => {
      const relation = this.#catalog.relations.get(oid)
      const reached =
        relation &&
        ['SELECT', 'INSERT', 'UPDATE', 'DELETE'].some((one) => relation.privileges.has(one as 'SELECT'))
      // What only shares rows with a child says nothing of whose they are.
      const told =
        relation &&
        (this.#columnsOf(relation).length > 0 ||
          this.#catalog.foreignKeys.some((key) => key.relation === oid))
      return relation && reached && told && relation.kind !== 'foreign' ? [relation] : []
    })
  }

  /** What else the role can read: it must look the same whatever a tenant writes. */
  #bystanders(): Relation[] {
    const readsRoot = (oid: number, depth = 0): boolean =>
      this.#tenants.roots.has(oid) ||
      (depth < 20 && (this.#catalog.reads.get(oid) ?? []).some((source) => readsRoot(source, depth + 1)))
    return [...this.#catalog.relations.values()].filter(
      ({ oid, privileges, kind }) =>
        privileges.has('SELECT') && kind !== 'foreign' && !this.#tenants.tables.has(oid) && !readsRoot(oid),
    )
  }

  #tenantNames(): { a: string; b: string; never: string } {
    const types = new Set<string>()
    let length = 64
    for (const [oid, { columns }] of this.#tenants.tables) {
      const relation = this.#catalog.relations.get(oid)
      const shape = relation && this.#maker.shape(relation.name)
      for (const name of columns) {
        const column = shape?.columns.get(name)
        if (!column) continue
        types.add(column.base)
        length = Math.min(length, column.length ?? 64)
      }
    }
    const listed = [...this.#tenants.tables.keys()].flatMap((oid) => {
      const shape = this.#maker.shape(this.#catalog.relations.get(oid)?.name ?? '')
      return shape?.partitionedBy.includes(this.#catalog.tenantColumn) ? [shape.bounds] : []
    })
    const [first, second] = listed.find((bounds) => bounds.length >= 2) ?? []
    const fresh = () => {
      if (types.has('uuid')) return randomUUID()
      if (types.has('smallint')) return String(randomInt(30_000, 32_000))
      if ([...types].some((type) => /^(integer|bigint|numeric)/.test(type)))
        return String(randomInt(1_900_000_000, 2_100_000_000))
      return `t${randomBytes(8).toString('hex')}`.slice(0, length)
    }
    return { a: first ?? fresh(), b: second ?? fresh(), never: fresh() }
  }

  // ---- rows of two tenants

  async #seed(targets: Relation[], names: { a: string; b: string; never: string }): Promise<Seeded[]> {
    const forced = this.#careful ? [] : await this.#unforce()
    const stored = new Map<string, StoredRow | NoRow>()
    const tenants = { a: names.a, b: names.b } as const
    const rowOf = async (table: string, whose: 'a' | 'b', path: string[]): Promise<StoredRow> => {
      const oid = this.#byName.get(table)?.oid
      const shared = oid === undefined || !(this.#tenants.tables.has(oid) || this.#tenants.roots.has(oid))
      const key = `${shared ? '' : whose} ${table}`
      const known = stored.get(key)
      if (known instanceof NoRow) throw known
      if (known) return known
      try {
        const given = await this.#given(
          table,
          tenants[whose],
          (parent) => rowOf(parent, whose, [...path, table]),
          path,
        )
        const row = await this.#store(table, given, tenants[whose])
        stored.set(key, row)
        return row
      } catch (error) {
        if (error instanceof NoRow) stored.set(key, error)
        throw error
      }
    }
    const tableOf = (relation: Relation) => this.#topParent(relation)
    for (const relation of targets)
      await this.#refusing(relation, () => rowOf(tableOf(relation).name, 'a', []))
    const ownA = await this.#count(targets, names.a)
    // Shared rows are there by now, so what a bystander shows from here on comes from one tenant.
    const watched = this.#careful ? [] : this.#bystanders()
    const before = await fingerprints(this.#connection, watched, this.#become(names.never))
    for (const relation of targets)
      await this.#refusing(relation, () => rowOf(tableOf(relation).name, 'b', []))
    const after = await fingerprints(this.#connection, watched, this.#become(names.never))
    for (const [name, seen] of before) {
      if (after.has(name) && after.get(name) !== seen) {
        this.#hit('live-read', name, 'shows what one tenant has written to a tenant that never existed')
      }
    }
    const ownB = await this.#count(targets, names.b)
    await this.#try('set constraints all immediate')
    for (const table of forced)
      await this.#connection.raw.query(`alter table ${table} force row level security`)
    const seeded: Seeded[] = []
    for (const relation of targets) {
      const [a, b] = [stored.get(`a ${tableOf(relation).name}`), stored.get(`b ${tableOf(relation).name}`)]
      if (!a || !b || a instanceof NoRow || b instanceof NoRow) continue
      const [ofA, ofB] = [ownA.get(relation.name) ?? 1, ownB.get(relation.name) ?? 1]
      const own = { relation, columns: this.#columnsOf(relation), a, ownA: ofA }
      if (ofA === 0 && ofB === 0) this.#refused.set(relation.name, 'the rows lie in other partitions')
      // In a partition of one tenant alone, that one is the other to every stranger.
      else seeded.push({ ...own, b: ofB === 0 ? a : b, soleTenant: ofA === 0 || ofB === 0 })
    }
    return seeded
  }

  async #refusing(relation: Relation, work: () => Promise<unknown>): Promise<void> {
    try {
      await work()
    } catch (error) {
      if (!(error instanceof NoRow)) throw error
      this.#refused.set(relation.name, error.message)
    }
  }

  #columnsOf(relation: Relation): string[] {
    const held = this.#tenants.tables.get(relation.oid)?.columns ?? new Set<string>()
    return held.size > 0 || this.#topParent(relation) === relation
      ? [...held]
      : this.#columnsOf(this.#topParent(relation))
  }

  #topParent(relation: Relation): Relation {
    const parent = this.#catalog.relations.get(relation.parents[0] ?? 0)
    // Of inheritance a child takes rows itself; of partitions only the right one does.
    return parent?.kind === 'partitioned' ? this.#topParent(parent) : relation
  }

  /** What a row must hold: the tenant, and the keys of its parents. */
  async #given(
    table: string,
    tenant: string,
    parent: (table: string) => Promise<StoredRow>,
    path: string[],
  ): Promise<StoredRow> {
    const shape = this.#maker.shape(table)
    const relation = this.#byName.get(table)
    const given: StoredRow = {}
    if (!shape) return given
    if (relation) for (const column of this.#judging.tenantColumns(relation)) given[column] = tenant
    for (const key of shape.parents) {
      const needed = key.columns.some((name) => shape.columns.get(name)?.required)
      if (key.table === table || path.includes(key.table)) {
        if (needed && key.table !== table) throw new NoRow(`${key.name} closes a circle of tables`)
        continue
      }
      try {
        const row = await parent(key.table)
        key.columns.forEach((name, i) => {
          given[name] = row[key.referenced[i]!] ?? null
        })
      } catch (error) {
        if (needed || !(error instanceof NoRow)) throw error
      }
    }
    return given
  }

  /** Inserts as the owner; where that is refused with the tenant set, and where that is too as the role itself. */
  async #store(table: string, given: StoredRow, tenant: string): Promise<StoredRow> {
    const inserts = (prefix: string) => async (sql: string) => {
      const before = prefix ? [prefix] : []
      const after = prefix ? ['reset role', this.#setTenant('')] : []
      const results = await inSavepoint(this.#connection.raw, [...before, sql, ...after], 'kept')
      const row = results.find(({ command }) => command === 'INSERT')?.rows[0]
      if (!row) throw new NoRow('a trigger or rule kept the row out')
      return row as StoredRow
    }
    const set = this.#setTenant(tenant)
    const ways = [...(this.#careful ? [] : ['']), set, `set local role ${this.#role}; ${set}`]
    let failure: unknown
    for (const way of ways) {
      try {
        return await this.#maker.store(table, given, inserts(way))
      } catch (error) {
        if (!(error instanceof NoRow)) throw error
        failure ??= error
      }
    }
    throw failure
  }

  /** So that the owner may put rows in: taken back before anything is tried. */
  async #unforce(): Promise<string[]> {
    const [{ bypasses }] = (
      await this.#connection.raw.query(
        'select rolsuper or rolbypassrls as bypasses from pg_roles where rolname = current_user',
      )
    ).rows as [{ bypasses: boolean }]
    if (bypasses) return []
    const done: string[] = []
    for (const { name, forced, kind } of this.#catalog.relations.values()) {
      if (!forced || (kind !== 'table' && kind !== 'partitioned')) continue
      if ((await this.#try(`alter table ${name} no force row level security`)) === undefined) done.push(name)
    }
    return done
  }

  /** Rows of a tenant, as the owner counts them; of tables that only their parent gives a tenant, all so far. */
  async #count(relations: Relation[], tenant: string): Promise<Map<string, number>> {
    const parts = relations.map((relation, i) => {
      const [column] = this.#columnsOf(relation)
      const mine =
        column === undefined ? 'true' : `${pg.escapeIdentifier(column)}::text = ${pg.escapeLiteral(tenant)}`
      return `select ${i} as i, (select count(*)::int from ${relation.name} where ${mine}) as n`
    })
    if (this.#careful || parts.length === 0) return new Map()
    const raw = this.#connection.raw
    await raw.query('savepoint counted')
    try {
      const { rows } = await raw.query<{ i: number; n: number }>(parts.join(' union all '))
      return new Map(rows.map(({ i, n }) => [relations[i]!.name, n]))
    } catch {
      return new Map()
    } finally {
      await raw.query('rollback to savepoint counted; release savepoint counted')
    }
  }

  // ---- attempts

  async #attemptAll(seeded: Seeded[], names: { a: string; b: string; never: string }): Promise<void> {
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
      both.flatMap((one) => this.#asTenant(one, both, names)),
      names.a,
      'as one tenant',
    )
    await this.#copies(both, names.a)
    await this.#cascades(both, names)
    await this.#sideEffects(both, names)
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
      add('live-update', `update ${name} set ${change}${this.#onlyOf(b, columns)}`, 'rows can be changed')
    }
    if (privileges.has('DELETE')) {
      add('live-delete', `delete from ${name}${this.#onlyOf(b, columns)}`, 'rows can be deleted', {
        telling: ['23503', '23001'],
      })
    }
    return attempts
  }

  #asTenant(
    { relation, a, b, ownA, columns }: Seeded,
    seeded: Seeded[],
    names: { a: string; b: string },
  ): Attempt[] {
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
        `update ${name} set ${change}${this.#onlyOf(b, columns)}`,
        "another's rows can be changed",
        {
          allowed: this.#careful ? 0 : ownA,
        },
      )
    }
    if (privileges.has('UPDATE') && tenantColumn) {
      const type = this.#maker.shape(name)?.columns.get(tenantColumn)?.type
      const target = `${pg.escapeLiteral(names.b)}::${type}`
      const column = pg.escapeIdentifier(tenantColumn)
      add(
        'live-move',
        `update ${name} set ${column} = ${target}${this.#onlyOf(a, columns)}`,
        'its own rows can be moved to another',
        {
          allowed: 0,
          telling: PASSED,
        },
      )
    }
    if (privileges.has('DELETE')) {
      add('live-delete', `delete from ${name}${this.#onlyOf(b, columns)}`, "another's rows can be deleted", {
        allowed: this.#careful ? 0 : ownA,
      })
    }
    if (privileges.has('INSERT')) {
      for (const { sql, key } of this.#references(relation, a, seeded)) {
        add('live-reference', sql, `${key} accepts another's row`, { allowed: 0 })
      }
      for (const index of this.#catalog.uniqueIndexes) {
        if (index.relation !== relation.oid || !tellsOfOthers(this.#judging, this.#tenants, index)) continue
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
      const parent = seeded.find((one) => one.relation.oid === key.references)
      if (key.relation !== relation.oid || !parent || parent.relation.oid === relation.oid) return []
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
    const names = [...columns, ...(this.#maker.shape(table)?.parents ?? []).flatMap((key) => key.columns)]
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
    return this.#maker.insert(table, given, this.#insertable.get(table))
  }

  #onlyOf(row: StoredRow, columns: string[]): string {
    const [column] = columns
    if (!this.#careful || column === undefined) return ''
    return ` where ${pg.escapeIdentifier(column)}::text = ${pg.escapeLiteral(row[column] ?? '')}`
  }

  readonly #insertable = new Map<string, Set<string>>()
  readonly #updatable = new Map<string, Set<string>>()

  /** An assignment that reads nothing, so that only the policies for writing stand in its way. */
  #assignment({ oid, name }: Relation, row: StoredRow): string | undefined {
    const may = this.#updatable.get(name)
    const shape = this.#maker.shape(name)
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

  /**
   * Executes attempts as the role, in one round trip: each in a block of its own that is rolled back, so that none sees
   * what another did.
   */
  async #execute(
    attempts: Attempt[],
    tenant: string | undefined,
    who: string,
    { raw } = this.#connection,
  ): Promise<void> {
    if (attempts.length === 0) return
    this.#attempts += attempts.length
    const list = attempts.map(({ sql, counts }) => ({ sql, counts }))
    const block = `
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
            raise exception using errcode = 'TB001';
          exception
            when sqlstate 'TB001' then outcomes := outcomes || jsonb_build_object('n', n, 'state', null);
            when others then outcomes := outcomes || jsonb_build_object('n', null, 'state', sqlstate);
          end;
        end loop;
        perform set_config('tabib.attempts', outcomes::text, true);
      end
      $tabib$`
    await raw.query('savepoint attempts')
    try {
      await raw.query(`select set_config('tabib.attempts', $1, true)`, [JSON.stringify(list)])
      await raw.query(`set local role ${this.#role}`)
      if (tenant !== undefined) await raw.query(this.#setTenant(tenant))
      await raw.query(block)
      const { rows } = await raw.query(`select current_setting('tabib.attempts')::json as outcomes`)
      this.#judge(attempts, rows[0].outcomes as Outcome[], who)
    } catch (error) {
      this.#refused.set(`attempts ${who}`, (error as Error).message)
    } finally {
      await raw.query('rollback to savepoint attempts; release savepoint attempts')
    }
  }

  #judge(attempts: Attempt[], outcomes: Outcome[], who: string): void {
    attempts.forEach(({ rule, relation, allowed, telling, says }, i) => {
      const { n, state } = outcomes[i] ?? { n: null, state: null }
      if ((n !== null && n > allowed) || (state !== null && telling?.includes(state)))
        this.#hit(rule, relation, `${says} ${who}`)
    })
  }

  async #copies(seeded: Seeded[], tenant: string): Promise<void> {
    for (const { relation, ownA } of seeded) {
      if (!relation.privileges.has('SELECT') || this.#careful) continue
      this.#attempts += 1
      // Partitioned tables are copied as a query only.
      const source = relation.kind === 'partitioned' ? `(select * from ${relation.name})` : relation.name
      const copied = await rolledBack(this.#connection.raw, this.#become(tenant), `copy ${source} to stdout`)
      if (copied && (copied.rowCount ?? 0) > ownA)
        this.#hit('live-copy', relation.name, "copies another's rows")
    }
  }

  /** Where a row of A may hang on a parent of B's: B deletes the parent, and A's row must still be there. */
  async #cascades(seeded: Seeded[], names: { a: string; b: string }): Promise<void> {
    const raw = this.#connection.raw
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
        await raw.query(`set local role ${this.#role}; ${this.#setTenant(names.a)}`)
        await raw.query(crossing.sql)
        const count = async () =>
          Number((await raw.query(`select count(*) as n from ${child.relation.name}`)).rows[0].n)
        const before = await count()
        await raw.query(`${this.#setTenant(names.b)}; delete from ${parent.relation.name}`)
        await raw.query(this.#setTenant(names.a))
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
  async #sideEffects(seeded: Seeded[], names: { a: string; b: string }): Promise<void> {
    const withTriggers = new Set(
      this.#catalog.attached.filter(({ kind }) => kind === 'trigger').map(({ relation }) => relation),
    )
    const known = seeded.filter(({ columns }) => columns.length > 0)
    const fingerprint = async () => {
      const parts = known.map(
        ({ relation: { name }, columns: [column] }, i) =>
          `select ${i} as i, count(*) as n, coalesce(sum(hashtext(one::text)), 0) as h from ${name} one where ${pg.escapeIdentifier(column!)}::text = ${pg.escapeLiteral(names.b)}`,
      )
      return new Map(
        (await this.#connection.raw.query(parts.join(' union all '))).rows.map(({ i, n, h }) => [
          known[i]!.relation.name,
          `${n} ${h}`,
        ]),
      )
    }
    const raw = this.#connection.raw
    for (const { relation, a, columns } of seeded) {
      if (!withTriggers.has(relation.oid) || this.#careful) continue
      await raw.query('savepoint effects')
      try {
        await this.#unforce()
        const before = await fingerprint()
        const { privileges, name } = relation
        const change = this.#assignment(relation, a)
        const writes = [
          ...(privileges.has('INSERT') ? [this.#freshRow(name, a, columns)] : []),
          ...(privileges.has('UPDATE') && change ? [`update ${name} set ${change}`] : []),
          ...(privileges.has('DELETE') ? [`delete from ${name}`] : []),
        ]
        await raw.query(`set local role ${this.#role}; ${this.#setTenant(names.a)}`)
        this.#attempts += writes.length
        for (const sql of writes) await this.#try(sql)
        await raw.query('reset role')
        const after = await fingerprint()
        for (const [table, seen] of before) {
          if (after.get(table) !== seen)
            this.#hit('live-side-effect', name, `writing here changes another tenant's rows in ${table}`)
        }
      } catch (error) {
        this.#refused.set(relation.name, (error as Error).message)
      } finally {
        await raw.query('rollback to savepoint effects; release savepoint effects')
      }
    }
  }

  // ---- sending

  #setTenant(tenant: string): string {
    const settings = settingsFor(this.#judging.tenantSetting, tenant).map(
      ([name, value]) => `set_config(${pg.escapeLiteral(name)}, ${pg.escapeLiteral(value)}, true)`,
    )
    return `select ${settings.join(', ')}`
  }

  #hit(
    rule: AttemptRule | 'live-copy' | 'live-cascade' | 'live-side-effect',
    relation: string,
    says: string,
  ): void {
    const known = this.#hits.get(`${rule} ${relation}`) ?? { rule, relation, says: new Set() }
    known.says.add(says)
    this.#hits.set(`${rule} ${relation}`, known)
  }

  /** Runs one statement and keeps its effect; the server's message where it refused. */
  async #try(sql: string): Promise<string | undefined> {
    try {
      await inSavepoint(this.#connection.raw, [sql], 'kept')
      return undefined
    } catch (error) {
      return (error as Error).message
    }
  }

  #become(tenant: string): string {
    return `set local role ${this.#role}; ${this.#setTenant(tenant)}`
  }
}

/** What is seen of each relation after `become`, as a count and a hash; absent where it cannot be read or is never the same twice. */
async function fingerprints(
  { raw }: Connection,
  relations: Relation[],
  become: string,
): Promise<Map<string, string>> {
  const seen = new Map<string, string>()
  for (const { name } of relations) {
    const sql = `select concat(count(*), ' ', coalesce(sum(hashtext(one::text)), 0)) as seen from ${name} one`
    const twice = [await rolledBack(raw, become, sql), await rolledBack(raw, become, sql)].map(
      (one) => one?.rows[0].seen,
    )
    if (twice[0] !== undefined && twice[0] === twice[1]) seen.set(name, twice[0])
  }
  return seen
}

async function rolledBack(
  raw: Connection['raw'],
  become: string,
  sql: string,
): Promise<pg.QueryResult | undefined> {
  try {
    return (await inSavepoint(raw, [become, sql], 'rolled back')).at(-1)
  } catch {
    return undefined
  }
}

/** Sends statements in one message, and returns a result for each; where one is refused nothing of them is left. */
async function inSavepoint(
  raw: Connection['raw'],
  statements: string[],
  end: 'kept' | 'rolled back',
): Promise<pg.QueryResult[]> {
  const ends = [...(end === 'kept' ? [] : ['rollback to savepoint one']), 'release savepoint one']
  try {
    const results: unknown = await raw.query(['savepoint one', ...statements, ...ends].join('; '))
    return (results as pg.QueryResult[]).slice(1, -ends.length)
  } catch (error) {
    await raw.query('rollback to savepoint one; release savepoint one')
    throw error
  }
}
