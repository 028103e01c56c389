import type { Finding } from '../../finding.ts'
import type { Catalog, ForeignKey, Relation, Role, Routine, UniqueIndex } from './catalog.ts'
import { columnName, type Judging, judgeAccess, nameOfSetting } from './confinement.ts'

const RUNBOOK = 'runbooks/billing/fm-15-row-level-security-off.md'

const TITLES = {
  tables: {
    'rls-off': 'every table with tenant data has row-level security',
    'rls-not-forced': 'row-level security holds for the owner too (force)',
    'tenant-column-missing':
      'every table with tenant data has the tenant column, or a policy that reaches its parent',
    'tenant-column-nullable': 'the tenant column is never null',
    'policy-open': 'every policy of the role confines it to its tenant',
  },
  keys: {
    'foreign-key-without-tenant': 'every foreign key between tenant tables carries the tenant column',
    'cascade-without-tenant': 'no cascade reaches another tenant',
    'foreign-key-off': 'no foreign key is switched off',
    'unique-without-tenant': 'no unique index tells of other tenants',
    'exclusion-without-tenant': 'no exclusion constraint tells of other tenants',
  },
  roles: {
    'role-bypasses': 'the role is no superuser and does not bypass row-level security',
    'role-reaches': 'the role cannot become a role that sees every tenant',
    'role-owns': 'the role owns no tenant table',
    'login-bypasses': 'no login of the role sees every tenant',
    'bypassrls-with-grants': 'no role with grants on tenant tables bypasses row-level security',
    'owner-members': 'nobody logs in as a member of the owner',
  },
  grants: {
    'grant-beyond-rows': 'no TRUNCATE, REFERENCES or TRIGGER on tenant tables',
    'tenants-writable': 'the role cannot change the table of tenants',
    'default-privileges': 'no table is opened by default privileges',
    sequence: 'no sequence of a tenant table can be read or set',
    'schema-create': 'the role cannot create objects',
    'large-objects': 'the role reads no large objects, which know no tenant',
    'foreign-server': 'the role uses no foreign server',
    'server-objects': 'the role reads no files, samples or passwords of the server',
    'role-settings': 'no setting gives sessions a tenant or a role by default',
  },
  code: {
    'view-runs-as-owner': 'every view on tenant tables runs as its reader (security_invoker)',
    'materialized-view': 'no materialised view of tenant data is readable',
    'definer-function': 'the role calls no SECURITY DEFINER function',
    'definer-trigger': 'no trigger runs as its owner',
    'function-sets-tenant':
      'no function changes the tenant for longer than its transaction, or to one of its own',
    leakproof: 'no function of the database claims to be leakproof',
    rule: 'no rule rewrites statements on tenant tables',
  },
  exits: {
    publication: 'no publication carries tenant tables',
    'foreign-table': 'no foreign table holds tenant data',
  },
} as const

type RuleName = { [C in keyof typeof TITLES]: keyof (typeof TITLES)[C] }[keyof typeof TITLES]

/** What the catalog checks look for; a finding's id is one of these. */
export const CATALOG_RULES = Object.entries(TITLES).flatMap(([category, titles]) =>
  Object.entries(titles).map(([name, title]) => ({
    id: `isolation/${name}`,
    category,
    title: title as string,
  })),
)

/** The tables that hold tenant data, and why. */
export interface TenantTables {
  /** Referenced by the tenant column: one row a tenant. Value: its key column. */
  roots: Map<number, string>
  /** Everything else that holds rows of a tenant. Value: the columns that hold the tenant; empty where only a parent tells. */
  tables: Map<number, { columns: Set<string>; via: string }>
}

/**
 * A table holds tenant data when it has the tenant column, references the table of tenants, references another such table,
 * or shares rows with one by inheritance. What is only referenced (currencies, countries) does not.
 */
export function findTenantTables(catalog: Catalog): TenantTables {
  const { relations, foreignKeys, tenantColumn } = catalog
  const has = (relation: Relation | undefined) =>
    relation?.columns.some(({ name }) => name === tenantColumn) ?? false
  const isTable = ({ kind }: Relation) => kind === 'table' || kind === 'partitioned' || kind === 'foreign'
  const roots = new Map<number, string>()
  for (const key of foreignKeys) {
    const [from, to] = [relations.get(key.relation), relations.get(key.references)]
    if (!from || !to || key.columns.length !== 1 || from === to) continue
    if (columnName(from, key.columns[0]!) === tenantColumn)
      roots.set(to.oid, columnName(to, key.referenced[0]!))
  }
  // A table of tenants that is itself one tenant's (a child of another) is no root.
  for (const [oid, key] of roots) if (has(relations.get(oid)) && key !== tenantColumn) roots.delete(oid)

  const tables: TenantTables['tables'] = new Map()
  const add = (relation: Relation, columns: string[], via: string) => {
    if (roots.has(relation.oid)) return false
    const known = tables.get(relation.oid)
    if (known) return columns.some((one) => !known.columns.has(one) && known.columns.add(one))
    tables.set(relation.oid, { columns: new Set(columns), via })
    return true
  }
  for (const relation of relations.values()) {
    if (isTable(relation) && has(relation)) add(relation, [tenantColumn], `has ${tenantColumn}`)
  }
  for (let grown = true; grown; ) {
    grown = false
    for (const key of foreignKeys) {
      const [from, to] = [relations.get(key.relation), relations.get(key.references)]
      if (!from || !to || from === to) continue
      const own = key.columns.map((number) => columnName(from, number))
      if (roots.has(to.oid) && own.length === 1 && !has(from))
        grown = add(from, own, `references ${to.name}`) || grown
      else if (tables.has(to.oid)) grown = add(from, [], `references ${to.name}`) || grown
    }
    for (const relation of relations.values()) {
      for (const oid of relation.parents) {
        const parent = relations.get(oid)
        if (!parent || tables.has(relation.oid) === tables.has(oid)) continue
        const [known, other] = tables.has(oid) ? [parent, relation] : [relation, parent]
        grown = add(other, [], `shares rows with ${known.name}`) || grown
      }
    }
  }
  return { roots, tables }
}

/** What the catalogs alone tell. */
export function catalogFindings(
  judging: Judging,
  { roots, tables }: TenantTables,
  { connectedAs }: { connectedAs: string },
): Finding[] {
  const { catalog } = judging
  const { relations, role } = catalog
  const holding = [...tables].flatMap(([oid, held]) => {
    const relation = relations.get(oid)
    return relation ? [{ relation, ...held }] : []
  })
  const stored = holding.filter(({ relation }) => relation.kind !== 'foreign')
  const nameOf = (oid: number) => relations.get(oid)?.name ?? `relation ${oid}`
  return [
    ...stored.flatMap((one) => tableFindings(judging, one)),
    ...catalog.foreignKeys.flatMap((key) => foreignKeyFindings(judging, { roots, tables }, key)),
    ...catalog.uniqueIndexes.flatMap((index) => uniqueFindings(judging, { roots, tables }, index)),
    ...roleFindings(
      catalog,
      stored.map(({ relation }) => relation),
      connectedAs,
    ),
    ...stored.flatMap(({ relation }) => {
      if (catalog.reach.has(relation.owner)) return []
      const beyond = (['TRUNCATE', 'REFERENCES', 'TRIGGER'] as const).filter((one) =>
        relation.privileges.has(one),
      )
      if (beyond.length === 0) return []
      return [
        finding(
          'grant-beyond-rows',
          'error',
          relation.name,
          `${role.name} has ${beyond.join(', ')}, which no policy restrains`,
          {
            fix: `revoke ${beyond.join(', ').toLowerCase()} on ${relation.name} from ${role.name}, public;`,
          },
        ),
      ]
    }),
    ...[...relations.values()].flatMap((one) =>
      roots.has(one.oid) || tables.has(one.oid) ? [] : untiedFindings(catalog, tables, one),
    ),
    ...[...roots].flatMap(([oid, key]) => rootFindings(judging, relations.get(oid)!, key)),
    ...surroundingFindings(catalog, tables, nameOfSetting(judging.tenantSetting)),
    ...viewFindings(catalog, tables),
    ...routineFindings(catalog, tables, nameOfSetting(judging.tenantSetting)),
    ...publicationFindings(catalog, tables, nameOf),
    ...[...relations.values()].flatMap((relation) => foreignTableFindings(catalog, relation)),
  ]
}

const reachable = ({ privileges }: Relation): boolean =>
  (['SELECT', 'INSERT', 'UPDATE', 'DELETE'] as const).some((one) => privileges.has(one))

const writable = ({ privileges }: Relation): boolean => privileges.has('INSERT') || privileges.has('UPDATE')

/** Of itself, or as a part of a table that can be. */
function reached(catalog: Catalog, relation: Relation): boolean {
  return (
    reachable(relation) ||
    relation.parents.some((oid) => {
      const parent = catalog.relations.get(oid)
      return parent !== undefined && reached(catalog, parent)
    })
  )
}

function tableFindings(
  judging: Judging,
  { relation, columns, via }: { relation: Relation; columns: Set<string>; via: string },
): Finding[] {
  const { catalog, tenantSetting } = judging
  const { name } = relation
  const { tenantColumn } = catalog
  const open = reached(catalog, relation)
  const findings: Finding[] = []
  const hasColumn = relation.columns.find((one) => one.name === tenantColumn)
  const accesses = ['select', 'insert', 'update', 'update check', 'delete'] as const
  const verdicts = relation.rls ? accesses.map((access) => judgeAccess(judging, relation, access)) : []
  const confined = relation.rls && verdicts.every((one) => one.confined)
  if (!hasColumn && columns.size === 0 && !confined) {
    // Where no row of it can be reached there is nothing to tell tenants apart for.
    if (!open) return []
    return [
      finding(
        'tenant-column-missing',
        'error',
        name,
        `${via}, and has neither ${tenantColumn} nor a policy that reaches its parent's tenant`,
        {
          fix: `alter table ${name} add column ${tenantColumn} …; or a policy: exists (select from <parent> where <its key>)`,
        },
      ),
    ]
  }
  if (!relation.rls) {
    if (open || hasColumn) {
      findings.push(
        finding(
          'rls-off',
          open ? 'error' : 'warning',
          name,
          open
            ? 'row-level security is off'
            : `row-level security is off, though ${catalog.role.name} has no privilege on it`,
          {
            evidence: { via },
            fix: `alter table ${name} enable row level security; alter table ${name} force row level security;`,
          },
        ),
      )
    }
    // Whatever its policies say, they do not apply.
    return [...findings, ...nullable()]
  }
  if (!relation.forced && (open || hasColumn)) {
    findings.push(
      finding(
        'rls-not-forced',
        open ? 'error' : 'warning',
        name,
        'row-level security does not hold for its owner',
        {
          fix: `alter table ${name} force row level security;`,
        },
      ),
    )
  }
  findings.push(...nullable())
  if (open) {
    const byPolicy = new Map<string, { why: string; accesses: string[] }>()
    for (const { access, openedBy } of verdicts) {
      for (const { policy, why } of openedBy) {
        const known = byPolicy.get(policy.name) ?? { why, accesses: [] }
        known.accesses.push(access === 'update check' ? 'moving rows' : access)
        byPolicy.set(policy.name, known)
      }
    }
    for (const [policy, { why, accesses: open }] of byPolicy) {
      const column = [...columns][0] ?? tenantColumn
      findings.push(
        finding(
          'policy-open',
          'error',
          `${name} policy ${policy}`,
          `${why}: ${open.join(', ')} is open to ${catalog.role.name}`,
          {
            fix: `alter policy ${policy} on ${name} using (${canonical(relation, column, tenantSetting)}) with check (the same);`,
          },
        ),
      )
    }
  }
  return findings

  function nullable(): Finding[] {
    // A partition has the column of its parent, which is told.
    if (!hasColumn || hasColumn.notNull || !open || relation.parents.length > 0) return []
    return [
      finding(
        'tenant-column-nullable',
        'error',
        `${name}.${tenantColumn}`,
        'may be null: a row of no tenant, past every key that carries it',
        {
          fix: `alter table ${name} alter column ${tenantColumn} set not null;`,
        },
      ),
    ]
  }
}

/** A table that no key ties to a tenant table, though a column of it is named after one. */
function untiedFindings(
  { tenantColumn, foreignKeys, relations }: Catalog,
  tables: TenantTables['tables'],
  relation: Relation,
): Finding[] {
  const { oid, name, kind, rls, columns } = relation
  if ((kind !== 'table' && kind !== 'partitioned') || rls || !reachable(relation)) return []
  if (foreignKeys.some((key) => key.references === oid)) return []
  const named = columns.find((column) =>
    [...tables.keys()].some((table) => keyNames(relations.get(table)!).has(plain(column.name))),
  )
  if (!named) return []
  return [
    finding(
      'tenant-column-missing',
      'error',
      name,
      `its ${named.name} is named after a tenant table, and it has neither ${tenantColumn} nor row-level security`,
      { fix: `alter table ${name} add column ${tenantColumn} …;` },
    ),
  ]
}

/** What a column that holds keys of this table is usually called. */
function keyNames({ name }: Relation): Set<string> {
  const table = plain(unquoted(name))
  const singular = [table, table.replace(/s$/, ''), table.replace(/es$/, ''), table.replace(/ies$/, 'y')]
  return new Set(singular.map((one) => `${one}id`))
}

const plain = (name: string): string => name.toLowerCase().replaceAll('_', '')

const unquoted = (name: string): string => name.slice(name.indexOf('.') + 1).replaceAll('"', '')

function canonical(relation: Relation, column: string, setting: string): string {
  const type = relation.columns.find(({ name }) => name === column)?.type ?? 'uuid'
  const [, ...way] = setting.split(/(->>?)/)
  const field = way.map((part, i) => (i % 2 === 0 ? ` ${part} ` : `'${part}'`)).join('')
  const value = `nullif(current_setting('${nameOfSetting(setting)}', true), '')`
  return `${column} = (select ${field ? `(${value}::json${field})` : value}::${type})`
}

function foreignKeyFindings(judging: Judging, { roots, tables }: TenantTables, key: ForeignKey): Finding[] {
  const { catalog } = judging
  const [from, to] = [catalog.relations.get(key.relation), catalog.relations.get(key.references)]
  if (!from || !to || !tables.has(from.oid)) return []
  const object = `${from.name} constraint ${key.name}`
  const acts = [
    ...(key.onDelete === 'refuse' ? [] : [`on delete ${key.onDelete}`]),
    ...(key.onUpdate === 'refuse' ? [] : [`on update ${key.onUpdate}`]),
  ].join(' ')
  const findings: Finding[] = key.enforced
    ? []
    : [
        finding('foreign-key-off', 'error', object, 'its triggers are off, so it is not enforced', {
          fix: `alter table ${from.name} enable trigger all;`,
        }),
      ]
  if (!tables.has(to.oid)) {
    // Of a shared row every tenant's rows may hang.
    const deletes =
      key.onDelete !== 'refuse' && to.privileges.has('DELETE') && !confinedTo(judging, to, 'delete')
    const updates =
      key.onUpdate !== 'refuse' && to.privileges.has('UPDATE') && !confinedTo(judging, to, 'update')
    if ((deletes || updates) && !roots.has(to.oid)) {
      findings.push(
        finding(
          'cascade-without-tenant',
          'error',
          object,
          `${acts}: a change of a row in ${to.name}, which is no tenant's, changes rows of every tenant`,
          {
            fix: `revoke delete, update on ${to.name} from ${catalog.role.name};`,
          },
        ),
      )
    }
    return findings
  }
  const carries = key.columns.some(
    (number, i) =>
      judging.tenantColumns(from).has(columnName(from, number)) &&
      judging.tenantColumns(to).has(columnName(to, key.referenced[i]!)),
  )
  // Of a child that nothing confines, that is told, and not each of its keys.
  const loose = judging.tenantColumns(from).size === 0 && !confinedTo(judging, from, 'select')
  if (carries || loose || !writable(from) || parentIsChecked(judging, from, key)) return findings
  const columns = key.columns.map((number) => columnName(from, number)).join(', ')
  const referenced = key.referenced.map((number) => columnName(to, number)).join(', ')
  const { tenantColumn } = catalog
  const fix = `alter table ${from.name} add foreign key (${tenantColumn}, ${columns}) references ${to.name} (${tenantColumn}, ${referenced}); alter table ${from.name} drop constraint ${key.name};`
  findings.push(
    acts === ''
      ? finding(
          'foreign-key-without-tenant',
          'error',
          object,
          `(${columns}) references ${to.name} without ${tenantColumn}: a row may point at another tenant's, and tells whether it exists`,
          { fix },
        )
      : finding(
          'cascade-without-tenant',
          'error',
          object,
          `(${columns}) references ${to.name} without ${tenantColumn}, ${acts}: one tenant changes another's rows`,
          { fix },
        ),
  )
  return findings
}

function confinedTo(judging: Judging, relation: Relation, access: 'select' | 'update' | 'delete'): boolean {
  return relation.rls && judgeAccess(judging, relation, access).confined
}

/** Whether the policies for writing look the parent of this key up among rows of the tenant. */
function parentIsChecked(judging: Judging, from: Relation, key: ForeignKey): boolean {
  if (!from.rls) return false
  const onlyByKey: Judging = {
    ...judging,
    catalog: { ...judging.catalog, foreignKeys: [key] },
    tenantColumns: (relation) => (relation.oid === from.oid ? new Set() : judging.tenantColumns(relation)),
  }
  return (['insert', 'update check'] as const).every(
    (access) => judgeAccess(onlyByKey, from, access).confined,
  )
}

const SURROGATE = /^(uuid|bigint|integer|smallint|date|timestamp with(out)? time zone)$/

/** Whether a refusal by this index tells that another tenant has the value. */
export function tellsOfOthers(judging: Judging, { tables }: TenantTables, index: UniqueIndex): boolean {
  const { catalog } = judging
  const relation = catalog.relations.get(index.relation)
  if (!relation || !tables.has(relation.oid) || !writable(relation)) return false
  if (judging.tenantColumns(relation).size === 0 && !confinedTo(judging, relation, 'select')) return false
  const columns = index.columns.map((number) => relation.columns.find((one) => one.number === number))
  const tenant = judging.tenantColumns(relation)
  if (columns.some((one) => one && tenant.has(one.name))) return false
  if (index.keys.some((key) => [...tenant].some((name) => new RegExp(`\\b${name}\\b`).test(key))))
    return false
  // A random id cannot be guessed, and a surrogate key says nothing but that it is taken.
  if (columns.some((one) => one?.type === 'uuid')) return false
  if (index.primary && columns.every((one) => one && (SURROGATE.test(one.type) || one.name === 'id')))
    return false
  // The parent's key is checked before the index is.
  return !catalog.foreignKeys.some(
    (key) =>
      key.relation === relation.oid &&
      tables.has(key.references) &&
      key.columns.every((number) => index.columns.includes(number)) &&
      parentIsChecked(judging, relation, key),
  )
}

function uniqueFindings(judging: Judging, tenants: TenantTables, index: UniqueIndex): Finding[] {
  if (!tellsOfOthers(judging, tenants, index)) return []
  const { catalog } = judging
  const relation = catalog.relations.get(index.relation)!
  const keys = index.keys.join(', ')
  return [
    index.exclusion
      ? finding(
          'exclusion-without-tenant',
          'error',
          `${relation.name} constraint ${index.name}`,
          `excludes (${keys}) across tenants: a refusal tells that another tenant has it`,
          {
            fix: `add ${catalog.tenantColumn} with = to the constraint`,
          },
        )
      : finding(
          'unique-without-tenant',
          'error',
          `${relation.name} index ${index.name}`,
          `is unique on (${keys}) across tenants: a refusal tells that another tenant has it`,
          {
            fix: `create unique index on ${relation.name} (${[catalog.tenantColumn, ...index.keys].join(', ')}); and drop ${index.name}`,
          },
        ),
  ]
}

const SERVER_ROLES = new Set([
  'pg_read_all_data',
  'pg_write_all_data',
  'pg_read_server_files',
  'pg_write_server_files',
  'pg_execute_server_program',
  'pg_monitor',
  'pg_read_all_stats',
  'pg_stat_scan_tables',
  'pg_database_owner',
  'pg_create_subscription',
  'pg_maintain',
])

function roleFindings(catalog: Catalog, tables: Relation[], connectedAs: string): Finding[] {
  const { role, reach, roles, memberships } = catalog
  const owners = new Set(tables.map(({ owner }) => owner))
  const findings: Finding[] = []
  const attributes = (one: Role) => [
    ...(one.superuser ? ['a superuser'] : []),
    ...(one.bypassesRls ? ['one that bypasses row-level security'] : []),
  ]
  const own = [
    ...attributes(role),
    ...(role.createRole ? ['one that may grant itself other roles (createrole)'] : []),
    ...(role.replication ? ['one that may read the whole write-ahead log (replication)'] : []),
  ]
  if (own.length > 0) {
    findings.push(
      finding('role-bypasses', 'critical', role.name, `is ${own.join(' and ')}`, {
        fix: `alter role ${role.name} nosuperuser nobypassrls nocreaterole noreplication;`,
      }),
    )
  }
  for (const [oid, other] of reach) {
    if (oid === role.oid) continue
    const why = [
      ...attributes(other),
      ...(owners.has(oid) ? ['the owner of tenant tables'] : []),
      ...(SERVER_ROLES.has(other.name) ? ['one of the server that sees past tenants'] : []),
      ...(other.createRole ? ['one that may grant itself other roles'] : []),
    ]
    if (why.length === 0) continue
    findings.push(
      finding('role-reaches', 'critical', role.name, `is a member of ${other.name}, ${why.join(' and ')}`, {
        fix: `revoke ${other.name} from ${role.name};`,
      }),
    )
  }
  const owned = tables.filter(({ owner }) => owner === role.oid)
  if (owned.length > 0) {
    findings.push(
      finding(
        'role-owns',
        'critical',
        role.name,
        `owns ${owned.length} tenant tables, and may switch their row-level security off`,
        {
          evidence: { tables: owned.slice(0, 10).map(({ name }) => name) },
          fix: `alter table ${owned[0]!.name} owner to <the owner>;`,
        },
      ),
    )
  }
  const reachOf = (start: number) => {
    const seen = new Set([start])
    for (const oid of seen) for (const { member, of } of memberships) if (member === oid) seen.add(of)
    return [...seen].flatMap((oid) => (roles.has(oid) ? [roles.get(oid)!] : []))
  }
  const told = new Set<number>([role.oid])
  for (const login of catalog.logins) {
    if (login.oid === role.oid || owners.has(login.oid) || login.name === connectedAs) continue
    const beyond = reachOf(login.oid).filter((one) => one.superuser || one.bypassesRls || owners.has(one.oid))
    // What the role itself reaches is told of the role.
    const more = beyond.filter((one) => !reach.has(one.oid))
    if (more.length === 0) continue
    told.add(login.oid)
    findings.push(
      finding(
        'login-bypasses',
        'error',
        login.name,
        `logs in for ${role.name} and ${describe(more[0]!, login, owners)}`,
        {
          fix: fixFor(more[0]!, login),
        },
      ),
    )
  }
  const granted = new Set(tables.flatMap(({ grantees, owner }) => [...grantees, owner]))
  for (const one of roles.values()) {
    if (one.superuser || told.has(one.oid) || reach.has(one.oid)) continue
    const reaching = reachOf(one.oid)
    if (one.bypassesRls && reaching.some(({ oid }) => granted.has(oid))) {
      told.add(one.oid)
      findings.push(
        finding(
          'bypassrls-with-grants',
          'error',
          one.name,
          'bypasses row-level security and has privileges on tenant tables',
          {
            fix: `alter role ${one.name} nobypassrls;`,
          },
        ),
      )
    }
    const owner = reaching.find(({ oid }) => owners.has(oid))
    if (one.login && owner && !owners.has(one.oid) && one.name !== connectedAs && !told.has(one.oid)) {
      findings.push(
        finding(
          'owner-members',
          'error',
          one.name,
          `logs in and is a member of ${owner.name}, the owner of tenant tables`,
          {
            fix: `revoke ${owner.name} from ${one.name};`,
          },
        ),
      )
    }
  }
  return findings
}

function describe(one: Role, login: Role, owners: Set<number>): string {
  const is = one.superuser
    ? 'a superuser'
    : one.bypassesRls
      ? 'past row-level security'
      : 'the owner of tenant tables'
  if (one.oid === login.oid) return `is ${is}`
  return `is a member of ${one.name}, ${owners.has(one.oid) && !one.superuser ? 'the owner of tenant tables' : is}`
}

function fixFor(one: Role, login: Role): string {
  return one.oid === login.oid
    ? `alter role ${login.name} nosuperuser nobypassrls;`
    : `revoke ${one.name} from ${login.name};`
}

function rootFindings(judging: Judging, relation: Relation, key: string): Finding[] {
  const { role } = judging.catalog
  const changes = (['UPDATE', 'DELETE'] as const).filter(
    (one) =>
      relation.privileges.has(one) && !confinedTo(judging, relation, one === 'UPDATE' ? 'update' : 'delete'),
  )
  const beyond = (['TRUNCATE', 'TRIGGER'] as const).filter((one) => relation.privileges.has(one))
  const all = [...changes, ...beyond]
  if (all.length === 0) return []
  return [
    finding(
      'tenants-writable',
      'error',
      relation.name,
      `${role.name} has ${all.join(', ')} on the table of tenants, whatever ${key} a row has`,
      {
        fix: `revoke ${all.join(', ').toLowerCase()} on ${relation.name} from ${role.name};`,
      },
    ),
  ]
}

function surroundingFindings(
  catalog: Catalog,
  tables: TenantTables['tables'],
  tenantSetting: string,
): Finding[] {
  const { role } = catalog
  const findings: Finding[] = []
  for (const { owner, schema, kind, grantee, privileges } of catalog.defaultPrivileges) {
    if (kind !== 'tables') continue
    const where = schema === null ? '' : ` in schema ${schema}`
    findings.push(
      finding(
        'default-privileges',
        'error',
        `${owner}${where}`,
        `every table that ${owner} makes${where} gives ${grantee} ${privileges.join(', ')} before it has row-level security`,
        {
          fix: `alter default privileges for role ${owner}${where} revoke all on tables from ${grantee};`,
        },
      ),
    )
  }
  for (const { name, relation, privileges } of catalog.sequences) {
    const which = (['SELECT', 'UPDATE'] as const).filter((one) => privileges.has(one))
    if (which.length === 0 || (relation !== 0 && !tables.has(relation))) continue
    const tells = which.includes('UPDATE')
      ? 'may be set, and its value counts the rows of all tenants'
      : 'its value counts the rows of all tenants'
    findings.push(
      finding('sequence', 'error', name, `${role.name} has ${which.join(', ')}: ${tells}`, {
        fix: `revoke ${which.join(', ').toLowerCase()} on sequence ${name} from ${role.name}, public;`,
      }),
    )
  }
  for (const schema of catalog.creatable) {
    // Before Postgres 15 everybody may create in public, of the server's own making.
    const usual = schema === 'schema public' && catalog.versionNumber < 150_000
    findings.push(
      finding(
        'schema-create',
        usual ? 'warning' : 'error',
        schema,
        `${role.name} may create there: functions and tables that others take for the real ones`,
        {
          fix: `revoke create on ${schema} from ${role.name}, public;`,
        },
      ),
    )
  }
  if (catalog.largeObjects > 0) {
    findings.push(
      finding(
        'large-objects',
        'error',
        role.name,
        `reads ${catalog.largeObjects} large objects, whosever they are`,
        {
          fix: 'keep files outside the database, or in a table with row-level security',
        },
      ),
    )
  }
  for (const server of catalog.servers) {
    findings.push(
      finding(
        'foreign-server',
        'error',
        server,
        `${role.name} may use it: what lies behind it knows no policy`,
        {
          fix: `revoke usage on foreign server ${server} from ${role.name}, public;`,
        },
      ),
    )
  }
  for (const name of catalog.serverObjects) {
    findings.push(
      finding('server-objects', 'critical', name, `${role.name} may use it`, {
        fix: `revoke all on ${name.includes('(') ? 'function ' : ''}${name} from ${role.name}, public;`,
      }),
    )
  }
  for (const parameter of catalog.parameters) {
    findings.push(
      finding(
        'role-settings',
        'error',
        parameter,
        `${role.name} may set it, and so switch foreign keys and triggers off`,
        {
          fix: `revoke set on parameter ${parameter} from ${role.name}, public;`,
        },
      ),
    )
  }
  const logins = new Set([...catalog.reach.values(), ...catalog.logins].map(({ name }) => name))
  for (const { role: whose, database, name, value } of catalog.settings) {
    if (whose !== null && !logins.has(whose)) continue
    const target = [
      whose === null ? '' : `role ${whose}`,
      database === null ? '' : `database ${database}`,
    ].filter(Boolean)
    const object = target.join(' in ')
    const other = [...catalog.roles.values()].find((one) => one.name === value)
    if (name === tenantSetting && value !== '') {
      findings.push(
        finding('role-settings', 'error', object, `sets ${tenantSetting} for every session that sets none`, {
          fix: `alter ${target[0]} reset ${tenantSetting};`,
        }),
      )
    } else if (name === 'role' && other && !catalog.reach.has(other.oid)) {
      findings.push(
        finding('role-settings', 'error', object, `sessions begin as ${value}`, {
          fix: `alter ${target[0]} reset role;`,
        }),
      )
    } else if (name === 'session_replication_role' && value !== 'origin') {
      findings.push(
        finding(
          'role-settings',
          'error',
          object,
          'sets session_replication_role: foreign keys and triggers are off',
          {
            fix: `alter ${target[0]} reset session_replication_role;`,
          },
        ),
      )
    }
  }
  return findings
}

/** The tenant tables that a view, or a rule, reads or writes in the end. */
function tenantSources(catalog: Catalog, tables: TenantTables['tables'], oid: number): string[] {
  const seen = new Set([oid])
  for (const one of seen) for (const source of catalog.reads.get(one) ?? []) seen.add(source)
  seen.delete(oid)
  return [...seen].flatMap((one) =>
    tables.has(one) ? [catalog.relations.get(one)?.name ?? String(one)] : [],
  )
}

function viewFindings(catalog: Catalog, tables: TenantTables['tables']): Finding[] {
  const { role } = catalog
  return [...catalog.relations.values()].flatMap((view) => {
    if ((view.kind !== 'view' && view.kind !== 'materialized') || !reachable(view)) return []
    const sources = tenantSources(catalog, tables, view.oid)
    // A view of the role's own runs as the role.
    const asReader = view.kind === 'view' && (view.invoker || view.owner === role.oid)
    if (sources.length === 0 || asReader) return []
    const from = { evidence: { reads: sources } }
    if (view.kind === 'materialized') {
      return [
        finding(
          'materialized-view',
          'error',
          view.name,
          `${role.name} reads a copy of tenant data that no policy covers`,
          {
            ...from,
            fix: `revoke all on ${view.name} from ${role.name}, public;`,
          },
        ),
      ]
    }
    return [
      finding(
        'view-runs-as-owner',
        'error',
        view.name,
        `reads tenant tables as its owner, and ${role.name} may use it`,
        {
          ...from,
          fix: `alter view ${view.name} set (security_invoker = true);`,
        },
      ),
    ]
  })
}

function routineFindings(catalog: Catalog, tables: TenantTables['tables'], tenantSetting: string): Finding[] {
  const { role, reach, relations } = catalog
  const findings: Finding[] = []
  for (const routine of catalog.routines.values()) {
    const { name } = routine
    const pinned = routine.config.some((one) => one.startsWith('search_path='))
    if (routine.definer && routine.executable && !routine.returnsTrigger && !reach.has(routine.owner)) {
      findings.push(
        finding(
          'definer-function',
          'error',
          name,
          `runs as ${catalog.roles.get(routine.owner)?.name}, and ${role.name} may call it${pinned ? '' : '; its search_path is not fixed'}`,
          {
            fix: `revoke execute on function ${name} from ${role.name}, public;`,
          },
        ),
      )
    }
    if (routine.leakproof && routine.executable) {
      findings.push(
        finding(
          'leakproof',
          'error',
          name,
          'claims to be leakproof, so it is called for rows before their policy is',
          {
            fix: `alter function ${name} not leakproof;`,
          },
        ),
      )
    }
    const forItself = routine.config.some((one) => one.startsWith(`${tenantSetting}=`))
    const forSession = new RegExp(
      `set_config\\s*\\(\\s*'${tenantSetting.replaceAll('.', '\\.')}'[^;]*,\\s*(false|'f'|'false'|0::bool\\w*)\\s*\\)|\\bset\\s+(session\\s+)?${tenantSetting.replaceAll('.', '\\.')}\\s*(=|to)\\s`,
      'i',
    ).test(routine.body)
    if (routine.executable && (forItself || forSession)) {
      findings.push(
        finding(
          'function-sets-tenant',
          'error',
          name,
          forItself
            ? `runs with a ${tenantSetting} of its own`
            : `sets ${tenantSetting} for the session: behind a pool the next client inherits it`,
          {
            fix: forItself
              ? `alter function ${name} reset ${tenantSetting};`
              : `set_config('${tenantSetting}', …, true)`,
          },
        ),
      )
    }
  }
  for (const { kind, name, relation, routine } of catalog.attached) {
    const on = relations.get(relation)
    if (!on) continue
    if (kind === 'rule') {
      const touches = tables.has(relation) || tenantSources(catalog, tables, relation).length > 0
      if (touches && (tables.has(relation) || reachable(on))) {
        findings.push(
          finding(
            'rule',
            'error',
            `${on.name} rule ${name}`,
            'rewrites statements, and what it adds runs as the owner',
            {
              fix: `drop rule ${name} on ${on.name};`,
            },
          ),
        )
      }
      continue
    }
    const called = catalog.routines.get(routine)
    if (!called?.definer || reach.has(called.owner) || !reachable(on)) continue
    // Of a table, attempts show whether it reaches other tenants; of a view nothing else stands between.
    const open = on.kind === 'view' || reachesAcross(catalog, tables, called, tenantSetting)
    findings.push(
      finding(
        'definer-trigger',
        open ? 'error' : 'warning',
        `${on.name} trigger ${name}`,
        `calls ${called.name} as ${catalog.roles.get(called.owner)?.name}`,
        {
          fix: `alter function ${called.name} security invoker;`,
        },
      ),
    )
  }
  return findings
}

/** Whether a function that no policy holds back looks into a tenant table and asks for no tenant. */
function reachesAcross(
  { roles, relations, tenantColumn }: Catalog,
  tables: TenantTables['tables'],
  { owner, body }: Routine,
  tenantSetting: string,
): boolean {
  const runsAs = roles.get(owner)
  if (!runsAs?.superuser && !runsAs?.bypassesRls) return false
  if (body.includes(tenantColumn) || body.includes(tenantSetting)) return false
  const named = [...body.matchAll(/\b(?:update|from|join)\s+(?:only\s+)?([\w".]+)/gi)].map(([, name]) =>
    unquoted(`.${name!.split('.').at(-1)}`),
  )
  return [...tables.keys()].some((oid) => named.includes(unquoted(relations.get(oid)?.name ?? '')))
}

function publicationFindings(
  catalog: Catalog,
  tables: TenantTables['tables'],
  nameOf: (oid: number) => string,
): Finding[] {
  const names = [...new Set(catalog.publications.map(({ name }) => name))]
  return names.flatMap((name) => {
    const carried = catalog.publications.filter((one) => one.name === name && tables.has(one.relation))
    if (carried.length === 0) return []
    return [
      finding(
        'publication',
        'error',
        name,
        `carries ${carried.length} tenant tables to whoever subscribes, past every policy`,
        {
          evidence: { tables: carried.slice(0, 10).map(({ relation }) => nameOf(relation)) },
          fix: `alter publication ${name} drop table ${nameOf(carried[0]!.relation)};`,
        },
      ),
    ]
  })
}

function foreignTableFindings({ tenantColumn, role }: Catalog, relation: Relation): Finding[] {
  if (relation.kind !== 'foreign') return []
  const holds = relation.columns.some(({ name }) => name === tenantColumn) || relation.parents.length > 0
  if (!reachable(relation) && !holds) return []
  return [
    finding(
      'foreign-table',
      holds && reachable(relation) ? 'error' : 'warning',
      relation.name,
      `${holds ? 'holds tenant data' : `is readable by ${role.name}`}, and no policy can be put on a foreign table`,
      {
        fix: `revoke all on ${relation.name} from ${role.name}, public;`,
      },
    ),
  ]
}

/** One finding of this check. */
export function finding(
  rule: RuleName | `live-${string}`,
  severity: Finding['severity'],
  object: string,
  message: string,
  { evidence = {}, fix = null }: { evidence?: Record<string, unknown>; fix?: string | null } = {},
): Finding {
  return {
    id: `isolation/${rule}`,
    check: 'isolation check',
    severity,
    object,
    message,
    evidence,
    fix,
    runbook: RUNBOOK,
    cacheKey: `isolation/${rule}:${object}`,
    waived: false,
  }
}
