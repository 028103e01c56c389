import type { Finding } from '../../../finding.ts'
import type { Catalog, Relation, Role } from '../catalog.ts'
import { type Family, finding, type Judged } from './family.ts'

const titles = {
  'role-bypasses': 'the role is no superuser and does not bypass row-level security',
  'role-reaches': 'the role cannot become a role that sees every tenant',
  'role-owns': 'the role owns no tenant table',
  'login-bypasses': 'no login of the role sees every tenant',
  'bypassrls-with-grants': 'no role with grants on tenant tables bypasses row-level security',
  'owner-members': 'nobody logs in as a member of the owner',
}
const found = finding<keyof typeof titles>

/** Who is past every policy. */
export const roles: Family = {
  titles,
  findings: ({ judging: { catalog }, tenants, connectedAs }: Judged) => {
    const tables = [...tenants.tables.keys()].flatMap((oid) => catalog.relations.get(oid) ?? [])
    const stored = tables.filter(({ kind }) => kind !== 'foreign')
    return [...ownFindings(catalog, stored), ...otherFindings(catalog, stored, connectedAs)]
  },
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

const attributes = (one: Role): string[] => [
  ...(one.superuser ? ['a superuser'] : []),
  ...(one.bypassesRls ? ['one that bypasses row-level security'] : []),
]

/** Of the role, and of what it may become. */
function ownFindings({ role, reach }: Catalog, tables: Relation[]): Finding[] {
  const owners = new Set(tables.map(({ owner }) => owner))
  const findings: Finding[] = []
  const severity = 'critical'
  const own = [
    ...attributes(role),
    ...(role.createRole ? ['one that may grant itself other roles (createrole)'] : []),
    ...(role.replication ? ['one that may read the whole write-ahead log (replication)'] : []),
  ]
  if (own.length > 0) {
    const fix = `alter role ${role.name} nosuperuser nobypassrls nocreaterole noreplication;`
    findings.push(found('role-bypasses', role.name, `is ${own.join(' and ')}`, { severity, fix }))
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
    const message = `is a member of ${other.name}, ${why.join(' and ')}`
    const fix = `revoke ${other.name} from ${role.name};`
    findings.push(found('role-reaches', role.name, message, { severity, fix }))
  }
  const owned = tables.filter(({ owner }) => owner === role.oid)
  if (owned.length > 0) {
    const message = `owns ${owned.length} tenant tables, and may switch their row-level security off`
    const evidence = { tables: owned.slice(0, 10).map(({ name }) => name) }
    const fix = `alter table ${owned[0]!.name} owner to <the owner>;`
    findings.push(found('role-owns', role.name, message, { severity, evidence, fix }))
  }
  return findings
}

/** Of the logins of the role, and of whoever else sees the tables. */
function otherFindings(
  { role, reach, roles, logins, memberships }: Catalog,
  tables: Relation[],
  connectedAs: string,
): Finding[] {
  const owners = new Set(tables.map(({ owner }) => owner))
  const findings: Finding[] = []
  const reachOf = (start: number) => {
    const seen = new Set([start])
    for (const oid of seen) for (const { member, of } of memberships) if (member === oid) seen.add(of)
    return [...seen].flatMap((oid) => (roles.has(oid) ? [roles.get(oid)!] : []))
  }
  const told = new Set<number>([role.oid])
  for (const login of logins) {
    if (login.oid === role.oid || owners.has(login.oid) || login.name === connectedAs) continue
    // What the role itself reaches is told of the role.
    const [more] = reachOf(login.oid).filter(
      (one) => (one.superuser || one.bypassesRls || owners.has(one.oid)) && !reach.has(one.oid),
    )
    if (!more) continue
    told.add(login.oid)
    const message = `logs in for ${role.name} and ${describe(more, login, owners)}`
    findings.push(found('login-bypasses', login.name, message, { fix: fixFor(more, login) }))
  }
  const granted = new Set(tables.flatMap(({ grantees, owner }) => [...grantees, owner]))
  for (const one of roles.values()) {
    if (one.superuser || told.has(one.oid) || reach.has(one.oid)) continue
    const reaching = reachOf(one.oid)
    if (one.bypassesRls && reaching.some(({ oid }) => granted.has(oid))) {
      told.add(one.oid)
      const message = 'bypasses row-level security and has privileges on tenant tables'
      const fix = `alter role ${one.name} nobypassrls;`
      findings.push(found('bypassrls-with-grants', one.name, message, { fix }))
    }
    const owner = reaching.find(({ oid }) => owners.has(oid))
    if (one.login && owner && !owners.has(one.oid) && one.name !== connectedAs && !told.has(one.oid)) {
      const message = `logs in and is a member of ${owner.name}, the owner of tenant tables`
      const fix = `revoke ${owner.name} from ${one.name};`
      findings.push(found('owner-members', one.name, message, { fix }))
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
