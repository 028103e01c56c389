import { randomUUID } from 'node:crypto'
import pg from 'pg'
import {
  type Connection,
  type Database,
  isDatabaseAway,
  type Queryable,
} from '../../adapters/postgres/client.ts'
import { copySchema } from '../../adapters/postgres/scratch.ts'
import { TabibError } from '../../errors.ts'
import type { FindingsReport } from '../../findings-report.ts'
import { ATTEMPT_RULES, type AttemptResult, attemptCrossings } from './attempt.ts'
import { assertSchemas, type Catalog, type Routine, readCatalog } from './catalog.ts'
import {
  columnOf,
  type Judging,
  judgeAccess,
  lookupsOf,
  nameOfSetting,
  routineOf,
  settingNamed,
  settingOf,
  settingsFor,
} from './confinement.ts'
import { type Expression, parseExpression, parseFunctionBody, within } from './expression.ts'
import { finding } from './rules/family.ts'
import { CATALOG_RULES, catalogFindings } from './rules.ts'
import { findTenantTables, type TenantTables } from './tenant-tables.ts'

export interface IsolationOptions {
  tenantColumn: string
  /** Absent: what most policies read. */
  tenantSetting?: string | undefined
  /** The role that the application works as. Absent: the only role that the tenant tables are granted to. */
  role?: string | undefined
  /** Empty: all but the system's. */
  schemas: readonly string[]
}

/** Where the attempts are made: on a copy of the schema of this URL, on the database itself, or not at all. */
export type AttemptsOn = { copyOf: string } | 'itself' | 'nothing'

/**
 * Judges the catalogs of a database, then tries to cross from tenant to tenant as the application's role. Where no copy of
 * the schema can be made the attempts are left out, and a warning says so.
 *
 * @throws TabibError USAGE where the role must be named, NOT_FOUND where a role, schema or tenant table is missing.
 */
export async function checkIsolation(
  { db }: { db: Database },
  options: IsolationOptions & { attemptsOn: AttemptsOn },
): Promise<Pick<FindingsReport, 'subject' | 'rules' | 'findings' | 'facts'>> {
  const [{ connectedAs }] = (await db.query<{ connectedAs: string }>(
    'select session_user as "connectedAs"',
  )) as [{ connectedAs: string }]
  await assertSchemas(db, options.schemas)
  const role = options.role ?? (await onlyGrantee(db, options))
  const catalog = await db.transaction((tx) => readCatalog(tx, { ...options, role }))
  const tenants = findTenantTables(catalog)
  if (tenants.tables.size === 0) throw nothingToCheck(catalog)
  const tenantSetting = usualSetting(catalog, options.tenantSetting && settingNamed(options.tenantSetting))
  const judging: Judging = {
    lookups: new Map(),
    catalog,
    tenantSetting,
    confined: new Set(),
    returnSetting: await returningSetting(db, catalog, tenantSetting),
    tenantColumns: ({ oid }) => {
      const root = tenants.roots.get(oid)
      return root === undefined ? (tenants.tables.get(oid)?.columns ?? new Set()) : new Set([root])
    },
  }
  if (!compares(judging)) judging.lookups = lookupsOf(judging)
  settleConfined(judging)
  const findings = catalogFindings({ judging, tenants, connectedAs })
  const facts = { role, tenantColumn: options.tenantColumn, tenantSetting, tables: tenants.tables.size }
  if (options.attemptsOn === 'nothing')
    return { subject: catalog.database, rules: CATALOG_RULES, findings, facts }
  const attempted = await attempt(db, { judging, tenants }, options.attemptsOn)
  const { attempts, tried, reachable } = attempted
  return {
    subject: catalog.database,
    rules: [...CATALOG_RULES, ...ATTEMPT_RULES],
    findings: [...findings, ...attempted.findings],
    facts: {
      ...facts,
      attempts: `${attempts} in ${tried} of ${reachable} tables that the role reaches, ${options.attemptsOn === 'itself' ? 'on the database itself (rolled back)' : 'on a copy of the schema'}`,
    },
  }
}

async function attempt(
  db: Database,
  judged: { judging: Judging; tenants: TenantTables },
  on: Exclude<AttemptsOn, 'nothing'>,
): Promise<AttemptResult> {
  if (on === 'itself') return attemptCrossings({ db }, { ...judged, careful: true })
  const { catalog } = judged.judging
  try {
    await using scratch = await copySchema({ db, url: on.copyOf })
    const result = await attemptCrossings({ db: scratch.db }, { ...judged, careful: false })
    if (scratch.failures.length === 0) return result
    const part = finding(
      'live-not-attempted',
      catalog.database,
      `${scratch.failures.length} parts of the schema could not be copied`,
      { severity: 'info', evidence: { failures: scratch.failures.slice(0, 20) } },
    )
    return { ...result, findings: [...result.findings, part] }
  } catch (error) {
    if (!(error instanceof TabibError) || isDatabaseAway(error)) throw error
    const none = finding(
      'live-not-attempted',
      catalog.database,
      `nothing was tried, since the schema could not be copied: ${error.message}`,
      {
        severity: 'warning',
        fix: 'alter role <the role that checks> createdb; or, on a database that nobody uses: tabib isolation check --live',
      },
    )
    return { findings: [none], attempts: 0, tried: 0, reachable: 0 }
  }
}

/**
 * Functions that policies ask for the tenant and whose body is more than one expression are called: unset, empty and
 * with nonsense they must return nothing or fail, and else what was set. Only those that read nothing but the setting.
 */
async function returningSetting(db: Database, catalog: Catalog, tenantSetting: string): Promise<Set<number>> {
  const asked = new Map<number, Routine>()
  const texts = catalog.policies.flatMap(({ using, check }) => [using, check].filter((text) => text !== null))
  for (const text of new Set([...texts, ...[...catalog.routines.values()].map(({ body }) => body)])) {
    for (const [, name] of text.matchAll(/([\w".]+)\s*\(\s*\)/g)) {
      const routine = routineOf(catalog, name!.replaceAll('"', '').split('.'), 0)
      if (routine && readsOnly(routine, tenantSetting)) asked.set(routine.oid, routine)
    }
  }
  if (asked.size === 0) return new Set()
  await using connection = await db.connection()
  await connection.raw.query('begin')
  try {
    const returning = new Set<number>()
    // Unset first: a session that has set it once is never again as one that did not.
    const unset = new Map<number, string | null>()
    for (const { oid, schema, bare } of asked.values())
      unset.set(oid, await returned(connection, schema, bare))
    for (const { oid, schema, bare } of asked.values()) {
      const seen = []
      for (const value of ['', 'nonsense', randomUUID(), '1234567']) {
        const result = await returned(connection, schema, bare, settingsFor(tenantSetting, value))
        seen.push({ value, result })
      }
      const right = seen.every(({ value, result }) => result === null || (result === value && value !== ''))
      if (unset.get(oid) === null && right && seen.some(({ result }) => result !== null)) returning.add(oid)
    }
    return returning
  } finally {
    await connection.raw.query('rollback')
  }
}

function readsOnly({ body, language, takes }: Routine, tenantSetting: string): boolean {
  const settings = [...body.matchAll(/current_setting\(\s*'([^']+)'/gi)].map(([, name]) => name)
  const reads = /\b(from|execute|set_config|current_user|session_user|perform|insert|update|delete)\b/i.test(
    body,
  )
  return (
    ['sql', 'plpgsql'].includes(language) &&
    takes === 0 &&
    !reads &&
    settings.length > 0 &&
    settings.every((name) => name === nameOfSetting(tenantSetting)) &&
    body.split(/current_setting/i).length === settings.length + 1
  )
}

/** What a function returns as text; null where it fails. */
async function returned(
  { raw }: Connection,
  schema: string,
  name: string,
  settings: [string, string][] = [],
): Promise<string | null> {
  await raw.query('savepoint asked')
  try {
    for (const setting of settings) await raw.query('select set_config($1, $2, true)', setting)
    const { rows } = await raw.query(
      `select ${pg.escapeIdentifier(schema)}.${pg.escapeIdentifier(name)}()::text as value`,
    )
    return rows[0]?.value ?? null
  } catch {
    return null
  } finally {
    await raw.query('rollback to savepoint asked; release savepoint asked')
  }
}

/** A child is confined by its parent, so what is known of parents decides about children: until nothing more is found. */
function settleConfined(judging: Judging): void {
  const { confined, catalog } = judging
  for (let before = -1; before !== confined.size; ) {
    before = confined.size
    for (const relation of catalog.relations.values()) {
      if (relation.rls && !confined.has(relation.oid) && judgeAccess(judging, relation, 'select').confined) {
        confined.add(relation.oid)
      }
    }
  }
}

/** Whether a policy compares the tenant column with the setting itself, so that it is the tenant and leads to none. */
function compares({ catalog, tenantSetting }: Judging): boolean {
  return comparisons(catalog).some(
    ({ column, setting }) => column === catalog.tenantColumn && setting === tenantSetting,
  )
}

/** Every equality of a column with a setting in a policy, or in a function that one asks. */
function comparisons(catalog: Catalog): { column: string; setting: string }[] {
  const judging = {
    catalog,
    tenantSetting: '',
    confined: new Set<number>(),
    returnSetting: new Set<number>(),
  }
  const found: { column: string; setting: string }[] = []
  const look = (expression: Expression, depth = 0): void => {
    for (const one of within(expression)) {
      if (one.kind === 'call' && depth < 5) {
        const called = routineOf(catalog, one.name, one.args.length)
        if (called) look(parseFunctionBody(called.body), depth + 1)
      }
      const pairs =
        one.kind === 'compare'
          ? [[one.left, one.right] as const]
          : one.kind === 'in'
            ? one.left.map((left, i) => [left, one.select.values[i] ?? left] as const)
            : []
      for (const [a, b] of pairs.flatMap(([a, b]) => [[a, b] as const, [b, a] as const])) {
        const [column, setting] = [columnOf(a), settingOf(judging, b)]
        if (column !== undefined && setting !== undefined) found.push({ column, setting })
      }
    }
  }
  for (const { using, check } of catalog.policies) look(parseExpression(using ?? check ?? 'true'))
  return found
}

const DEFAULT_SETTING = 'app.tenant_id'

/**
 * The setting that most policies compare the tenant column with, a policy that reads another stands out; or else what
 * they look the tenant up by, or read at all. Of a JSON setting that was named, the field.
 */
function usualSetting(catalog: Catalog, named?: string): string {
  const { policies, routines, tenantColumn } = catalog
  const most = (names: string[]) => {
    const counts = new Map<string, number>()
    for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1)
    const fits = ([name]: [string, number]) =>
      named === undefined || name === named || nameOfSetting(name) === named
    return [...counts].filter(fits).sort(([, a], [, b]) => b - a)[0]?.[0]
  }
  const compared = comparisons(catalog)
  const read = policies
    .flatMap(({ using, check }) => {
      const text = `${using ?? ''} ${check ?? ''}`
      const called = [...routines.values()].filter(({ bare }) => new RegExp(`\\b${bare}\\(`).test(text))
      return [text, ...called.map(({ body }) => body)]
    })
    .flatMap((text) =>
      [...text.matchAll(/current_setting\(\s*'([^']+)'/gi)].map(([, name]) => settingNamed(name!)),
    )
  return (
    most(compared.flatMap(({ column, setting }) => (column === tenantColumn ? [setting] : []))) ??
    most(compared.map(({ setting }) => setting)) ??
    named ??
    most(read) ??
    DEFAULT_SETTING
  )
}

async function onlyGrantee(db: Queryable, { tenantColumn, schemas }: IsolationOptions): Promise<string> {
  const rows = await db.query<{ name: string; writes: boolean }>(
    `select r.rolname as name, bool_or(g.privilege_type <> 'SELECT') as writes
     from pg_class c join pg_namespace n on n.oid = c.relnamespace
       join pg_attribute a on a.attrelid = c.oid and a.attname = $1 and not a.attisdropped,
       aclexplode(c.relacl) g join pg_roles r on r.oid = g.grantee
     where c.relkind in ('r', 'p') and n.nspname !~ '^pg_' and (cardinality($2::text[]) = 0 or n.nspname = any($2))
       and g.grantee <> c.relowner and g.privilege_type in ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
     group by 1 order by 1`,
    [tenantColumn, schemas],
  )
  const writers = rows.filter(({ writes }) => writes)
  const names = (writers.length > 0 ? writers : rows).map(({ name }) => name)
  const own = names.includes('tabib_app') ? 'tabib_app' : names.length === 1 ? names[0] : undefined
  if (own !== undefined) return own
  throw new TabibError(
    'USAGE',
    names.length === 0
      ? `no role has privileges on a table with the column ${tenantColumn}: say which role the application works as`
      : `several roles have privileges on tables with the column ${tenantColumn}: ${names.join(', ')}`,
    { suggestions: [`tabib isolation check --role ${names[0] ?? '<role>'} --tenant-column ${tenantColumn}`] },
  )
}

function nothingToCheck({ relations, tenantColumn }: Catalog): TabibError {
  const counts = new Map<string, number>()
  for (const { columns, kind } of relations.values()) {
    if (kind !== 'table' && kind !== 'partitioned') continue
    for (const { name } of columns) {
      if (/tenant|org|account|customer|clinic|company|workspace|team/i.test(name))
        counts.set(name, (counts.get(name) ?? 0) + 1)
    }
  }
  const near = [...counts].sort(([, a], [, b]) => b - a).map(([name]) => name)
  return new TabibError(
    'NOT_FOUND',
    `no table has the column "${tenantColumn}", so there is nothing to keep apart`,
    {
      suggestions: [`tabib isolation check --tenant-column ${near[0] ?? '<column>'}`],
      context: { similar: near.slice(0, 10) },
    },
  )
}
