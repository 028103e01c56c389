import type { Finding } from '../../../finding.ts'
import { type Catalog, parentsOf, type Relation, reachable, reached } from '../catalog.ts'
import { type Judging, judgeAccess, nameOfSetting } from '../confinement.ts'
import type { TenantTables } from '../tenant-tables.ts'
import { type Family, finding, type Judged } from './family.ts'

const titles = {
  'rls-off': 'every table with tenant data has row-level security',
  'rls-not-forced': 'row-level security holds for the owner too (force)',
  'tenant-column-missing':
    'every table with tenant data has the tenant column, or a policy that reaches its parent',
  'tenant-column-nullable': 'the tenant column is never null',
  'policy-open': 'every policy of the role confines it to its tenant',
}
const found = finding<keyof typeof titles>

/** Row-level security, the tenant column and the policies. */
export const tables: Family = {
  titles,
  findings: ({ judging, tenants: { roots, tables } }: Judged) =>
    [...judging.catalog.relations.values()].flatMap((relation) => {
      const held = tables.get(relation.oid)
      if (held) return relation.kind === 'foreign' ? [] : tableFindings(judging, relation, held)
      return roots.has(relation.oid) ? [] : untiedFindings(judging.catalog, tables, relation)
    }),
}

function tableFindings(
  judging: Judging,
  relation: Relation,
  { columns, via }: { columns: Set<string>; via: string },
): Finding[] {
  const { catalog } = judging
  const { name, rls, forced } = relation
  const { tenantColumn, role } = catalog
  const open = reached(catalog, relation)
  const hasColumn = relation.columns.some((one) => one.name === tenantColumn)
  // Where no row of it can be reached there is nothing to tell tenants apart for.
  if (!open && !hasColumn) return []
  const accesses = ['select', 'insert', 'update', 'update check', 'delete'] as const
  const verdicts = rls ? accesses.map((access) => judgeAccess(judging, relation, access)) : []
  const confined = rls && verdicts.every((one) => one.confined)
  if (!hasColumn && columns.size === 0 && !confined) {
    const message = `${via}, and has neither ${tenantColumn} nor a policy that reaches its parent's tenant`
    const fix = `alter table ${name} add column ${tenantColumn} …; or a policy: exists (select from <parent> where <its key>)`
    return [found('tenant-column-missing', name, message, { fix })]
  }
  const findings: Finding[] = []
  const severity = open ? 'error' : 'warning'
  if (!rls) {
    const though = open ? '' : `, though ${role.name} has no privilege on it`
    const fix = `alter table ${name} enable row level security; alter table ${name} force row level security;`
    const evidence = { via }
    findings.push(found('rls-off', name, `row-level security is off${though}`, { severity, evidence, fix }))
  } else if (!forced) {
    const fix = `alter table ${name} force row level security;`
    const message = 'row-level security does not hold for its owner'
    findings.push(found('rls-not-forced', name, message, { severity, fix }))
  }
  if (open && mayBeNull(relation, tenantColumn) && !parentsOf(catalog, relation).some(told)) {
    const message = 'may be null: a row of no tenant, past every key that carries it'
    const fix = `alter table ${name} alter column ${tenantColumn} set not null;`
    findings.push(found('tenant-column-nullable', `${name}.${tenantColumn}`, message, { fix }))
  }
  // Where it is off nothing that its policies say applies.
  return open && rls ? [...findings, ...policyFindings(judging, relation, columns, verdicts)] : findings

  // A partition has the column of its parent.
  function told(parent: Relation): boolean {
    return parent.kind === 'partitioned' || mayBeNull(parent, tenantColumn)
  }
}

const mayBeNull = ({ columns }: Relation, column: string): boolean =>
  columns.some(({ name, notNull }) => name === column && !notNull)

function policyFindings(
  { catalog, tenantSetting }: Judging,
  relation: Relation,
  columns: Set<string>,
  verdicts: ReturnType<typeof judgeAccess>[],
): Finding[] {
  const byPolicy = new Map<string, { why: string; accesses: string[] }>()
  for (const { access, openedBy } of verdicts) {
    for (const { policy, why } of openedBy) {
      const known = byPolicy.get(policy.name) ?? { why, accesses: [] }
      known.accesses.push(access === 'update check' ? 'moving rows' : access)
      byPolicy.set(policy.name, known)
    }
  }
  const same = canonical(relation, [...columns][0] ?? catalog.tenantColumn, tenantSetting)
  return [...byPolicy].map(([policy, { why, accesses }]) =>
    found(
      'policy-open',
      `${relation.name} policy ${policy}`,
      `${why}: ${accesses.join(', ')} is open to ${catalog.role.name}`,
      { fix: `alter policy ${policy} on ${relation.name} using (${same}) with check (the same);` },
    ),
  )
}

function canonical(relation: Relation, column: string, setting: string): string {
  const type = relation.columns.find(({ name }) => name === column)?.type ?? 'uuid'
  const [, ...way] = setting.split(/(->>?)/)
  const field = way.map((part, i) => (i % 2 === 0 ? ` ${part} ` : `'${part}'`)).join('')
  const value = `nullif(current_setting('${nameOfSetting(setting)}', true), '')`
  return `${column} = (select ${field ? `(${value}::json${field})` : value}::${type})`
}

// Whose a row is, or who it is about.
const SOMEBODYS =
  /^((user|owner|actor|author|creator|member|patient|customer|client|employee|subject|entity|object|record|row|resource|account|profile)_?(id|uuid)|(created|updated|owned|uploaded|sent|requested)_?by)$/
const PERSONAL =
  /(^|_)(e?_?mail|email_address|phone|mobile|msisdn|first_?name|last_?name|full_?name|surname|family_?name|birth(_?date|day)?|date_of_birth|dob|ssn|national_id|passport|mrn|diagnosis|iban|password(_?hash)?)($|_)/
// What may hold anything, of anybody.
const FREE =
  /^(payload|body|content|message|comment|notes?|document|data|details|(old|new)_(data|row|values?))$/
const EVERY_TABLE_HAS =
  /^(id|uuid|name|title|code|key|value|type|kind|state|status|position|description|(created|updated|deleted)_?(at|on))$/

/**
 * A table that no key ties to a tenant. What is only looked up (referenced, or read and never written) is everybody's; a
 * table is somebody's when a column is named after a tenant table, when the role writes of persons or of whose a row is
 * and reads it back, and when all it has are a tenant table's columns. It may be where what is written could be anything.
 */
function untiedFindings(
  { tenantColumn, foreignKeys, relations, policies, role }: Catalog,
  tables: TenantTables['tables'],
  relation: Relation,
): Finding[] {
  const { oid, name, kind, rls, columns, privileges } = relation
  if ((kind !== 'table' && kind !== 'partitioned') || !reachable(relation)) return []
  if (foreignKeys.some((key) => key.references === oid)) return []
  // Whatever else its policies ask, it is something.
  if (
    rls &&
    !policies.some(({ relation, using, check }) => relation === oid && [using, check].includes('true'))
  )
    return []
  const known = [...tables.keys()].map((table) => relations.get(table)!)
  const own = columns.map((column) => column.name.toLowerCase())
  const named = own.find((column) => known.some((table) => keyNames(table).has(plain(column))))
  const returned = privileges.has('SELECT') && (privileges.has('INSERT') || privileges.has('UPDATE'))
  const personal = own.find((column) => SOMEBODYS.test(column) || PERSONAL.test(column))
  const telling = own.filter((column) => !EVERY_TABLE_HAS.test(column))
  const like = known.find((table) =>
    own.every((one) => table.columns.some((other) => other.name.toLowerCase() === one)),
  )
  const keyed = foreignKeys.some((key) => key.relation === oid)
  const copied = like && !keyed && (personal !== undefined || telling.length > 2)
  const free = returned && own.find((column) => FREE.test(column))
  const why = named
    ? `its ${named} is named after a tenant table`
    : returned && personal
      ? `${role.name} writes and reads ${personal} in it`
      : copied
        ? `all its columns are those of ${like.name}`
        : free && `${role.name} writes and reads ${free} in it, whosever it is`
  if (!why) return []
  const severity = named || (returned && personal) || copied ? 'error' : 'warning'
  const message = `${why}, and it has neither ${tenantColumn} nor ${rls ? 'a policy that keeps anything apart' : 'row-level security'}`
  const fix = `alter table ${name} add column ${tenantColumn} …;`
  return [found('tenant-column-missing', name, message, { severity, fix })]
}

/** What a column that holds keys of this table is usually called. */
function keyNames({ bare }: Relation): Set<string> {
  const table = plain(bare)
  const singular = [table, table.replace(/s$/, ''), table.replace(/es$/, ''), table.replace(/ies$/, 'y')]
  return new Set(singular.map((one) => `${one}id`))
}

const plain = (name: string): string => name.toLowerCase().replaceAll('_', '')
