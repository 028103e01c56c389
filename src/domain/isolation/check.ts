import type { Database, Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import type { Finding } from '../../finding.ts'
import type { FindingsReport } from '../../findings-report.ts'
import { type Catalog, readCatalog } from './catalog.ts'
import { type Judging, judgeAccess } from './confinement.ts'
import { parseExpression, within } from './expression.ts'
import { CATALOG_RULES, catalogFindings, findTenantTables } from './rules.ts'

export interface IsolationOptions {
  tenantColumn: string
  /** Absent: what most policies read. */
  tenantSetting?: string | undefined
  /** The role that the application works as. Absent: the only role that the tenant tables are granted to. */
  role?: string | undefined
  /** Empty: all but the system's. */
  schemas: readonly string[]
}

export async function checkIsolation(
  { db }: { db: Database },
  options: IsolationOptions,
): Promise<Pick<FindingsReport, 'rules' | 'findings' | 'facts'>> {
  const [{ connectedAs }] = (await db.query<{ connectedAs: string }>(
    'select session_user as "connectedAs"',
  )) as [{ connectedAs: string }]
  const role = options.role ?? (await onlyGrantee(db, options))
  const catalog = await db.transaction((tx) => readCatalog(tx, { ...options, role }))
  const tenants = findTenantTables(catalog)
  if (tenants.tables.size === 0) throw nothingToCheck(catalog)
  const tenantSetting = options.tenantSetting ?? usualSetting(catalog)
  const judging: Judging = {
    catalog,
    tenantSetting,
    confined: new Set(),
    tenantColumns: ({ oid }) => {
      const root = tenants.roots.get(oid)
      return root === undefined ? (tenants.tables.get(oid)?.columns ?? new Set()) : new Set([root])
    },
  }
  settleConfined(judging)
  const findings: Finding[] = catalogFindings(judging, tenants, { connectedAs })
  return {
    rules: CATALOG_RULES,
    findings,
    facts: { role, tenantColumn: options.tenantColumn, tenantSetting, tables: tenants.tables.size },
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

const DEFAULT_SETTING = 'app.tenant_id'

/** The setting that most policies of the role compare with: a policy that reads another stands out. */
function usualSetting({ policies, routines }: Catalog): string {
  const counts = new Map<string, number>()
  const count = (text: string) => {
    for (const [, name] of text.matchAll(/current_setting\(\s*'([^']+)'/gi)) {
      counts.set(name!, (counts.get(name!) ?? 0) + 1)
    }
  }
  for (const { using, check } of policies) {
    count(`${using ?? ''} ${check ?? ''}`)
    for (const one of within(parseExpression(using ?? check ?? 'true'))) {
      if (one.kind !== 'call') continue
      const called = [...routines.values()].find(({ bare }) => bare === one.name.at(-1))
      if (called) count(called.body)
    }
  }
  const [most] = [...counts].sort(([, a], [, b]) => b - a)
  return most?.[0] ?? DEFAULT_SETTING
}

async function onlyGrantee(db: Queryable, { tenantColumn, schemas }: IsolationOptions): Promise<string> {
  const rows = await db.query<{ name: string }>(
    `select distinct r.rolname as name
     from pg_class c join pg_namespace n on n.oid = c.relnamespace
       join pg_attribute a on a.attrelid = c.oid and a.attname = $1 and not a.attisdropped,
       aclexplode(c.relacl) g join pg_roles r on r.oid = g.grantee
     where c.relkind in ('r', 'p') and n.nspname !~ '^pg_' and (cardinality($2::text[]) = 0 or n.nspname = any($2))
       and g.grantee <> c.relowner and g.privilege_type in ('INSERT', 'UPDATE', 'DELETE') order by 1`,
    [tenantColumn, schemas],
  )
  const names = rows.map(({ name }) => name)
  const own = names.includes('tabib_app') ? 'tabib_app' : names.length === 1 ? names[0] : undefined
  if (own !== undefined) return own
  throw new TabibError(
    'USAGE',
    names.length === 0
      ? `no role has privileges on a table with the column ${tenantColumn}: say which role the application works as`
      : `several roles write tables with the column ${tenantColumn}: ${names.join(', ')}`,
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
