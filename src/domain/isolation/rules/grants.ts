import type { Finding } from '../../../finding.ts'
import type { Catalog } from '../catalog.ts'
import { confinedTo, nameOfSetting } from '../confinement.ts'
import { type Family, finding, type Judged } from './family.ts'

const titles = {
  'grant-beyond-rows': 'no TRUNCATE, REFERENCES or TRIGGER on tenant tables',
  'tenants-writable': 'the role cannot change the table of tenants',
  'default-privileges': 'no table is opened by default privileges',
  sequence: 'no sequence of a tenant table can be read or set',
  'schema-create': 'the role cannot create objects',
  'large-objects': 'the role reads no large objects, which know no tenant',
  'foreign-server': 'the role uses no foreign server',
  'server-objects': 'the role reads no files, samples or passwords of the server, and connects to no other',
  'role-settings': 'no setting gives sessions a tenant or a role by default',
}
const found = finding<keyof typeof titles>

/** What the role was given that no policy restrains. */
export const grants: Family = {
  titles,
  findings: (judged: Judged) => [
    ...beyondRows(judged),
    ...rootFindings(judged),
    ...objectFindings(judged),
    ...settingFindings(judged.judging.catalog, nameOfSetting(judged.judging.tenantSetting)),
  ],
}

function beyondRows({ judging: { catalog }, tenants: { tables } }: Judged): Finding[] {
  const { role, relations, reach } = catalog
  return [...tables.keys()].flatMap((oid) => {
    const relation = relations.get(oid)
    if (!relation || relation.kind === 'foreign' || reach.has(relation.owner)) return []
    const beyond = (['TRUNCATE', 'REFERENCES', 'TRIGGER'] as const).filter((one) =>
      relation.privileges.has(one),
    )
    if (beyond.length === 0) return []
    const message = `${role.name} has ${beyond.join(', ')}, which no policy restrains`
    const fix = `revoke ${beyond.join(', ').toLowerCase()} on ${relation.name} from ${role.name}, public;`
    return found('grant-beyond-rows', relation.name, message, { fix })
  })
}

function rootFindings({ judging, tenants: { roots } }: Judged): Finding[] {
  const { role, relations } = judging.catalog
  return [...roots].flatMap(([oid, key]) => {
    const relation = relations.get(oid)!
    const has = (privilege: 'UPDATE' | 'DELETE' | 'TRUNCATE' | 'TRIGGER') =>
      relation.privileges.has(privilege)
    const all = [
      ...(has('UPDATE') && !confinedTo(judging, relation, 'update') ? ['UPDATE'] : []),
      ...(has('DELETE') && !confinedTo(judging, relation, 'delete') ? ['DELETE'] : []),
      ...(['TRUNCATE', 'TRIGGER'] as const).filter(has),
    ]
    if (all.length === 0) return []
    const message = `${role.name} has ${all.join(', ')} on the table of tenants, whatever ${key} a row has`
    const fix = `revoke ${all.join(', ').toLowerCase()} on ${relation.name} from ${role.name};`
    return found('tenants-writable', relation.name, message, { fix })
  })
}

function objectFindings({ judging: { catalog }, tenants: { tables } }: Judged): Finding[] {
  const { role } = catalog
  const revoke = (what: string, on: string) => ({ fix: `revoke ${what} on ${on} from ${role.name}, public;` })
  return [
    ...catalog.defaultPrivileges.flatMap(({ owner, schema, kind, grantee, privileges }) => {
      if (kind !== 'tables') return []
      const where = schema === null ? '' : ` in schema ${schema}`
      const message = `every table that ${owner} makes${where} gives ${grantee} ${privileges.join(', ')} before it has row-level security`
      const fix = `alter default privileges for role ${owner}${where} revoke all on tables from ${grantee};`
      return found('default-privileges', `${owner}${where}`, message, { fix })
    }),
    ...catalog.sequences.flatMap(({ name, relation, privileges }) => {
      const which = (['SELECT', 'UPDATE'] as const).filter((one) => privileges.has(one))
      if (which.length === 0 || (relation !== 0 && !tables.has(relation))) return []
      const set = which.includes('UPDATE') ? 'may be set, and ' : ''
      const message = `${role.name} has ${which.join(', ')}: ${set}its value counts the rows of all tenants`
      return found('sequence', name, message, revoke(which.join(', ').toLowerCase(), `sequence ${name}`))
    }),
    ...catalog.creatable.map(({ name, byDefault }) => {
      const message = `${role.name} may create there: functions and tables that others take for the real ones`
      const severity = byDefault && catalog.versionNumber < 150_000 ? 'warning' : 'error'
      return found('schema-create', name, message, { severity, ...revoke('create', name) })
    }),
    ...largeObjectFindings(catalog, tables),
    ...catalog.servers.map((server) =>
      found(
        'foreign-server',
        server,
        `${role.name} may use it: what lies behind it knows no policy`,
        revoke('usage', server),
      ),
    ),
    ...catalog.serverObjects.map((name) =>
      found('server-objects', name, `${role.name} may use it`, {
        severity: 'critical',
        ...revoke('all', `${name.includes('(') ? 'function ' : ''}${name}`),
      }),
    ),
    ...catalog.parameters.map((parameter) =>
      found(
        'role-settings',
        parameter,
        `${role.name} may set it, and so switch foreign keys and triggers off`,
        revoke('set', `parameter ${parameter}`),
      ),
    ),
  ]
}

/** Those that are there, and columns that tell of those to come: a migrated database has no rows yet. */
function largeObjectFindings(
  { role, relations, largeObjects }: Catalog,
  tables: Map<number, unknown>,
): Finding[] {
  const fix = 'keep files outside the database, or in a bytea column of a table with row-level security'
  const holding = [...tables.keys()].flatMap((oid) => {
    const relation = relations.get(oid)
    // The oid of a table or of a type is no file.
    const column = relation?.columns.find(
      ({ name, type }) => type === 'lo' || (type === 'oid' && !/rel|table|class|type|proc|role/i.test(name)),
    )
    return relation && column ? [`${relation.name}.${column.name}`] : []
  })
  return [
    ...holding.map((column) =>
      found(
        'large-objects',
        column,
        `its files are large objects, which ${role.name} reads whosever they are`,
        {
          fix,
        },
      ),
    ),
    ...(largeObjects > 0
      ? [found('large-objects', role.name, `reads ${largeObjects} large objects, whosever they are`, { fix })]
      : []),
  ]
}

/** What `alter role … set` and `alter database … set` give every session of the role. */
function settingFindings({ reach, logins, roles, settings }: Catalog, tenantSetting: string): Finding[] {
  const own = new Set([...reach.values(), ...logins].map(({ name }) => name))
  return settings.flatMap(({ role, database, name, value }) => {
    if (role !== null && !own.has(role)) return []
    const target = [role && `role ${role}`, database && `database ${database}`].filter(Boolean)
    const other = [...roles.values()].find((one) => one.name === value)
    const says =
      name === tenantSetting && value !== ''
        ? `sets ${tenantSetting} for every session that sets none`
        : name === 'role' && other && !reach.has(other.oid)
          ? `sessions begin as ${value}`
          : name === 'session_replication_role' && value !== 'origin'
            ? 'sets session_replication_role: foreign keys and triggers are off'
            : name === 'lo_compat_privileges' && /^(on|true|yes|1)$/i.test(value)
              ? 'sets lo_compat_privileges: everybody reads every large object'
              : undefined
    if (says === undefined) return []
    return found('role-settings', target.join(' in '), says, { fix: `alter ${target[0]} reset ${name};` })
  })
}
