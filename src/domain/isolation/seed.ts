import { randomBytes, randomInt, randomUUID } from 'node:crypto'
import pg from 'pg'
import type { Connection } from '../../adapters/postgres/client.ts'
import { type Catalog, type Relation, reachable } from './catalog.ts'
import { type Judging, settingsFor } from './confinement.ts'
import { NoRow, RowMaker, readShapes, type StoredRow } from './rows.ts'
import type { TenantTables } from './tenant-tables.ts'

/** A table that both tenants have a row in. */
export interface Seeded {
  relation: Relation
  /** The columns that hold the tenant. */
  columns: string[]
  a: StoredRow
  b: StoredRow
  /** How many of its rows are A's, as the owner counts them. */
  ownA: number
  /** Whether only one of them can have rows in it. */
  soleTenant: boolean
}

type Whose = 'a' | 'b'

/** Rows of two tenants, made in one transaction as the owner. */
export class Seeding {
  /** Why a table got no row, by its name. */
  readonly refused = new Map<string, string>()
  /** What shows one tenant's writing to everybody. */
  readonly telling: string[] = []
  readonly maker: RowMaker
  readonly names: Record<Whose | 'never', string>
  readonly #connection: Connection
  readonly #judging: Judging
  readonly #catalog: Catalog
  readonly #tenants: TenantTables
  readonly #careful: boolean
  readonly #role: string
  readonly #byName: Map<string, Relation>
  readonly #stored = new Map<string, StoredRow | NoRow>()
  /** What the setting holds for a tenant that is looked up by it. */
  readonly #leading = new Map<string, string>()
  /** Tables of those by whom a tenant is looked up: nobody is in both. */
  readonly #leaders: Set<string>
  /** The tenant's columns of tables that lie outside of the examined schemas, and that rows need. */
  readonly #outside: Map<string, string[]>

  private constructor(
    connection: Connection,
    maker: RowMaker,
    { judging, tenants, careful }: { judging: Judging; tenants: TenantTables; careful: boolean },
  ) {
    this.#connection = connection
    this.maker = maker
    this.#judging = judging
    this.#catalog = judging.catalog
    this.#tenants = tenants
    this.#careful = careful
    this.#role = pg.escapeIdentifier(judging.catalog.role.name)
    this.#byName = new Map([...this.#catalog.relations.values()].map((one) => [one.name, one]))
    this.names = this.#tenantNames()
    this.#outside = this.#tenantColumnsOutside()
    this.#leaders = new Set(
      [...judging.lookups].flatMap(([oid, column]) => {
        const parents = maker.shape(this.#catalog.relations.get(oid)!.name)?.parents ?? []
        return parents.filter(({ columns }) => columns.includes(column)).map(({ table }) => table)
      }),
    )
  }

  static async open(
    connection: Connection,
    options: { judging: Judging; tenants: TenantTables; careful: boolean },
  ): Promise<Seeding> {
    return new Seeding(connection, new RowMaker(await readShapes(connection)), options)
  }

  /** Makes a row of each tenant in each table. */
  async seed(targets: Relation[]): Promise<Seeded[]> {
    const forced = this.#careful ? [] : await this.unforce()
    const lookups = [...this.#judging.lookups].map(
      ([oid, key]) => [this.#catalog.relations.get(oid)!, key] as const,
    )
    const tables = [...lookups.map(([relation]) => relation), ...targets].map(
      (one) => this.#topParent(one).name,
    )
    const rowsOf = async (whose: Whose) => {
      if (!this.#careful) await this.#storeAtOnce(tables, whose)
      for (const [relation, key] of lookups) {
        await this.#refusing(relation, async () => {
          const row = await this.#rowOf(this.#topParent(relation).name, whose, [])
          if (row[key] != null) this.#leading.set(this.names[whose], row[key])
        })
      }
      for (const relation of targets) {
        await this.#refusing(relation, () => this.#rowOf(this.#topParent(relation).name, whose, []))
      }
    }
    await rowsOf('a')
    const ownA = await this.#count(targets, this.names.a)
    // Shared rows are there by now, so what a bystander shows from here on comes from one tenant.
    const watched = this.#careful ? [] : this.#bystanders()
    const before = await fingerprints(this.#connection, watched, this.become(this.names.never))
    await rowsOf('b')
    const after = await fingerprints(this.#connection, watched, this.become(this.names.never))
    for (const [name, seen] of before) {
      if (after.has(name) && after.get(name) !== seen) this.telling.push(name)
    }
    const ownB = await this.#count(targets, this.names.b)
    await kept(this.#connection.raw, 'set constraints all immediate').catch(() => {})
    if (forced.length > 0) {
      await this.#connection.raw.query(
        forced.map((table) => `alter table ${table} force row level security`).join('; '),
      )
    }
    const seeded: Seeded[] = []
    for (const relation of targets) {
      const table = this.#topParent(relation).name
      const [a, b] = [this.#stored.get(this.#key(table, 'a')), this.#stored.get(this.#key(table, 'b'))]
      if (!a || !b || a instanceof NoRow || b instanceof NoRow) continue
      const [ofA, ofB] = [ownA.get(relation.name) ?? 1, ownB.get(relation.name) ?? 1]
      const own = { relation, columns: this.columnsOf(relation), a, ownA: ofA }
      if (ofA === 0 && ofB === 0) this.refused.set(relation.name, 'the rows lie in other partitions')
      // In a partition of one tenant alone, that one is the other to every stranger.
      else seeded.push({ ...own, b: ofB === 0 ? a : b, soleTenant: ofA === 0 || ofB === 0 })
    }
    return seeded
  }

  /** Tenant tables that the role can reach. */
  targets(): Relation[] {
    return [...this.#tenants.tables.keys()].flatMap((oid) => {
      const relation = this.#catalog.relations.get(oid)
      // What only shares rows with a child says nothing of whose they are.
      const told =
        relation &&
        (this.columnsOf(relation).length > 0 || this.#catalog.foreignKeys.some((key) => key.relation === oid))
      return relation && reachable(relation) && told && relation.kind !== 'foreign' ? [relation] : []
    })
  }

  columnsOf(relation: Relation): string[] {
    const held = this.#tenants.tables.get(relation.oid)?.columns ?? new Set<string>()
    return held.size > 0 || this.#topParent(relation) === relation
      ? [...held]
      : this.columnsOf(this.#topParent(relation))
  }

  /** The statement that says whose the transaction is. */
  setTenant(tenant: string): string {
    const value = this.#leading.get(tenant) ?? tenant
    const settings = settingsFor(this.#judging.tenantSetting, value).map(
      ([name, held]) => `set_config(${pg.escapeLiteral(name)}, ${pg.escapeLiteral(held)}, true)`,
    )
    return `select ${settings.join(', ')}`
  }

  become(tenant: string): string {
    return `set local role ${this.#role}; ${this.setTenant(tenant)}`
  }

  /** So that the owner may put rows in, and count them: taken back before anything is tried. */
  async unforce({ raw } = this.#connection): Promise<string[]> {
    const [{ bypasses }] = (
      await raw.query(
        'select rolsuper or rolbypassrls as bypasses from pg_roles where rolname = current_user',
      )
    ).rows as [{ bypasses: boolean }]
    const forced = [...this.#catalog.relations.values()].flatMap(({ name, forced, kind }) =>
      forced && (kind === 'table' || kind === 'partitioned') ? [name] : [],
    )
    if (bypasses || forced.length === 0) return []
    const unforce = (tables: string[]) =>
      kept(raw, ...tables.map((table) => `alter table ${table} no force row level security`)).then(
        () => true,
        () => false,
      )
    if (await unforce(forced)) return forced
    const done: string[] = []
    for (const table of forced) if (await unforce([table])) done.push(table)
    return done
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

  #tenantNames(): Record<Whose | 'never', string> {
    const types = new Set<string>()
    let length = 64
    for (const [oid, { columns }] of this.#tenants.tables) {
      const relation = this.#catalog.relations.get(oid)
      const shape = relation && this.maker.shape(relation.name)
      for (const name of columns) {
        const column = shape?.columns.get(name)
        if (!column) continue
        types.add(column.base)
        length = Math.min(length, column.length ?? 64)
      }
    }
    const listed = [...this.#tenants.tables.keys()].flatMap((oid) => {
      const shape = this.maker.shape(this.#catalog.relations.get(oid)?.name ?? '')
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

  #tenantColumnsOutside(): Map<string, string[]> {
    const { tenantColumn, relations } = this.#catalog
    const found = new Map<string, string[]>()
    const needed = new Set([...relations.values()].map(({ name }) => name))
    for (const table of needed) {
      for (const { table: parent, columns, referenced } of this.maker.shape(table)?.parents ?? []) {
        needed.add(parent)
        if (this.#byName.has(parent)) continue
        const own = columns.flatMap((name, i) => (name === tenantColumn ? [referenced[i]!] : []))
        if (this.maker.shape(parent)?.columns.has(tenantColumn)) own.push(tenantColumn)
        if (own.length > 0) found.set(parent, [...(found.get(parent) ?? []), ...own])
      }
    }
    return found
  }

  #key(table: string, whose: Whose): string {
    const oid = this.#byName.get(table)?.oid
    const own =
      oid === undefined
        ? this.#outside.has(table)
        : this.#tenants.tables.has(oid) || this.#tenants.roots.has(oid) || this.#leaders.has(table)
    return `${own ? whose : ''} ${table}`
  }

  /**
   * Rows of all tables whose parents have theirs in one message, and so on with their children; whatever is refused there
   * is made one by one afterwards.
   */
  async #storeAtOnce(tables: string[], whose: Whose): Promise<void> {
    const parentsOf = (table: string) =>
      (this.maker.shape(table)?.parents ?? []).map((key) => key.table).filter((one) => one !== table)
    const missing = new Set(tables)
    for (const table of missing) for (const parent of parentsOf(table)) missing.add(parent)
    const has = (table: string) => {
      const known = this.#stored.get(this.#key(table, whose))
      return known !== undefined && !(known instanceof NoRow)
    }
    for (;;) {
      for (const table of missing) if (has(table)) missing.delete(table)
      const ready = [...missing].filter((table) => this.maker.shape(table) && parentsOf(table).every(has))
      if (ready.length === 0) return
      for (const table of ready) missing.delete(table)
      const statements = await Promise.all(
        ready.map(async (table) => {
          const row = async (parent: string) => this.#stored.get(this.#key(parent, whose)) as StoredRow
          return this.maker.insertReturning(table, await this.#given(table, this.names[whose], row, []))
        }),
      )
      try {
        const results = await kept(this.#connection.raw, ...statements)
        const rows = results.filter(({ command }) => command === 'INSERT').map(({ rows: [row] }) => row)
        ready.forEach((table, i) => {
          if (rows[i]) this.#stored.set(this.#key(table, whose), rows[i] as StoredRow)
        })
      } catch {
        for (const table of ready) await this.#rowOf(table, whose, []).catch(() => {})
      }
    }
  }

  async #rowOf(table: string, whose: Whose, path: string[]): Promise<StoredRow> {
    const key = this.#key(table, whose)
    const known = this.#stored.get(key)
    if (known instanceof NoRow) throw known
    if (known) return known
    try {
      const tenant = this.names[whose]
      const parent = (name: string) => this.#rowOf(name, whose, [...path, table])
      const row = await this.#store(table, await this.#given(table, tenant, parent, path), tenant)
      this.#stored.set(key, row)
      return row
    } catch (error) {
      if (error instanceof NoRow) this.#stored.set(key, error)
      throw error
    }
  }

  async #refusing(relation: Relation, work: () => Promise<unknown>): Promise<void> {
    try {
      await work()
    } catch (error) {
      if (!(error instanceof NoRow)) throw error
      this.refused.set(relation.name, error.message)
    }
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
    const shape = this.maker.shape(table)
    const relation = this.#byName.get(table)
    const given: StoredRow = {}
    if (!shape) return given
    const own = relation ? this.#judging.tenantColumns(relation) : (this.#outside.get(table) ?? [])
    for (const column of own) given[column] = tenant
    for (const key of shape.parents) {
      // A key of which one column is null points nowhere.
      const needed = key.columns.every((name) => shape.columns.get(name)?.required)
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
      const after = prefix ? ['reset role', this.setTenant('')] : []
      const results = await kept(this.#connection.raw, ...before, sql, ...after)
      const row = results.find(({ command }) => command === 'INSERT')?.rows[0]
      if (!row) throw new NoRow('a trigger or rule kept the row out')
      return row as StoredRow
    }
    const ways = [...(this.#careful ? [] : ['']), this.setTenant(tenant), this.become(tenant)]
    let failure: unknown
    for (const way of ways) {
      try {
        return await this.maker.store(table, given, inserts(way))
      } catch (error) {
        if (!(error instanceof NoRow)) throw error
        failure ??= error
      }
    }
    throw failure
  }

  /** Rows of a tenant, as the owner counts them; of tables that only their parent gives a tenant, all so far. */
  async #count(relations: Relation[], tenant: string): Promise<Map<string, number>> {
    const parts = relations.map((relation, i) => {
      const [column] = this.columnsOf(relation)
      const mine =
        column === undefined ? 'true' : `${pg.escapeIdentifier(column)}::text = ${pg.escapeLiteral(tenant)}`
      return `select ${i} as i, (select count(*)::int from ${relation.name} where ${mine}) as n`
    })
    if (this.#careful || parts.length === 0) return new Map()
    try {
      const [counted] = await kept(this.#connection.raw, parts.join(' union all '))
      return new Map(counted!.rows.map(({ i, n }) => [relations[i]!.name, n]))
    } catch {
      return new Map()
    }
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
    const results = await rolledBack(raw, become, sql, sql).catch(() => [])
    const twice = results.slice(-2).map((one) => one.rows[0].seen)
    if (twice.length > 0 && twice[0] === twice[1]) seen.set(name, twice[0])
  }
  return seen
}

/** Sends statements in one message and keeps what they did, or nothing where one is refused; a result for each. */
export const kept = (raw: Connection['raw'], ...statements: string[]): Promise<pg.QueryResult[]> =>
  inSavepoint(raw, statements, [])

/** The same, and takes back what they did. */
export const rolledBack = (raw: Connection['raw'], ...statements: string[]): Promise<pg.QueryResult[]> =>
  inSavepoint(raw, statements, ['rollback to savepoint one'])

async function inSavepoint(
  raw: Connection['raw'],
  statements: string[],
  end: string[],
): Promise<pg.QueryResult[]> {
  const ends = [...end, 'release savepoint one']
  try {
    const results: unknown = await raw.query(['savepoint one', ...statements, ...ends].join('; '))
    return (results as pg.QueryResult[]).slice(1, -ends.length)
  } catch (error) {
    await raw.query('rollback to savepoint one; release savepoint one')
    throw error
  }
}
