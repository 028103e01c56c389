import type { Finding } from '../../../finding.ts'
import { type Column, type ForeignKey, type Relation, type UniqueIndex, writable } from '../catalog.ts'
import { columnName, confinedTo, type Judging, judgeAccess } from '../confinement.ts'
import type { TenantTables } from '../tenant-tables.ts'
import { type Family, finding, type Judged } from './family.ts'

const titles = {
  'foreign-key-without-tenant': 'every foreign key between tenant tables carries the tenant column',
  'cascade-without-tenant': 'no cascade reaches another tenant',
  'foreign-key-off': 'no foreign key is switched off',
  'unique-without-tenant': 'no unique index tells of other tenants',
  'exclusion-without-tenant': 'no exclusion constraint tells of other tenants',
}
const found = finding<keyof typeof titles>

/** Constraints that see past the policies. */
export const keys: Family = {
  titles,
  findings: ({ judging, tenants }: Judged) => [
    ...judging.catalog.foreignKeys.flatMap((key) => foreignKeyFindings(judging, tenants, key)),
    ...judging.catalog.uniqueIndexes.flatMap((index) => uniqueFindings(judging, tenants, index)),
  ],
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
  const findings: Finding[] = []
  if (!key.enforced) {
    const fix = `alter table ${from.name} enable trigger all;`
    findings.push(found('foreign-key-off', object, 'its triggers are off, so it is not enforced', { fix }))
  }
  if (!tables.has(to.oid)) {
    // Of a shared row every tenant's rows may hang.
    const changes = (action: string, privilege: 'DELETE' | 'UPDATE', access: 'delete' | 'update') =>
      action !== 'refuse' && to.privileges.has(privilege) && !confinedTo(judging, to, access)
    const open = changes(key.onDelete, 'DELETE', 'delete') || changes(key.onUpdate, 'UPDATE', 'update')
    if (open && !roots.has(to.oid)) {
      const message = `${acts}: a change of a row in ${to.name}, which is no tenant's, changes rows of every tenant`
      const fix = `revoke delete, update on ${to.name} from ${catalog.role.name};`
      findings.push(found('cascade-without-tenant', object, message, { fix }))
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
  if (carries || loose || !writable(catalog, from) || parentIsChecked(judging, from, key)) return findings
  const columns = key.columns.map((number) => columnName(from, number)).join(', ')
  const referenced = key.referenced.map((number) => columnName(to, number)).join(', ')
  const { tenantColumn } = catalog
  const fix = `alter table ${from.name} add foreign key (${tenantColumn}, ${columns}) references ${to.name} (${tenantColumn}, ${referenced}); alter table ${from.name} drop constraint ${key.name};`
  const says = `(${columns}) references ${to.name} without ${tenantColumn}`
  findings.push(
    acts === ''
      ? found(
          'foreign-key-without-tenant',
          object,
          `${says}: a row may point at another tenant's, and tells whether it exists`,
          { fix },
        )
      : found('cascade-without-tenant', object, `${says}, ${acts}: one tenant changes another's rows`, {
          fix,
        }),
  )
  return findings
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

const COUNTED = /^(bigint|integer|smallint)$/
const TIME = /^(date|timestamp with(out)? time zone)$/

/** Whether a refusal by this index tells that another tenant has the value. */
export function tellsOfOthers(judging: Judging, { tables }: TenantTables, index: UniqueIndex): boolean {
  const { catalog } = judging
  const relation = catalog.relations.get(index.relation)
  if (!relation || !tables.has(relation.oid) || !writable(catalog, relation)) return false
  const tenant = judging.tenantColumns(relation)
  if (tenant.size === 0 && !confinedTo(judging, relation, 'select')) return false
  const columns = index.columns.map((number) => relation.columns.find((one) => one.number === number))
  // What excludes rows that have another tenant's value is no key with the tenant.
  const apart = (i: number) => index.operators.length === 0 || index.operators[i] === '='
  if (columns.some((one, i) => one && tenant.has(one.name) && apart(i))) return false
  if (index.keys.some((key, i) => !columns[i] && apart(i) && keepsApart(key, tenant))) return false
  if (isSurrogate(columns, index.primary)) return false
  // A random id cannot be guessed.
  if (columns.some((one) => one?.type === 'uuid' && !tenant.has(one.name))) return false
  // The parent's key is checked before the index is.
  return !catalog.foreignKeys.some(
    (key) =>
      key.relation === relation.oid &&
      tables.has(key.references) &&
      key.columns.every((number) => index.columns.includes(number)) &&
      parentIsChecked(judging, relation, key),
  )
}

/** A surrogate key says nothing but that it is taken; a number that somebody gives a thing, or a day, is none. */
function isSurrogate(columns: (Column | undefined)[], primary: boolean): boolean {
  const counted = ({ name, type, hasDefault }: Column) =>
    name === 'id' || (COUNTED.test(type) && (hasDefault || (primary && /id$/i.test(name))))
  return (
    columns.some((one) => one && counted(one)) &&
    columns.every((one) => one && (counted(one) || TIME.test(one.type)))
  )
}

/** Whether an expression has the tenant in it whole, and not only whether or how it begins. */
function keepsApart(expression: string, tenant: Set<string>): boolean {
  const cuts = /\bis\b|[<>=]|\b(left|right|substr|substring|length|hashtext|lower|upper)\W/i
  return [...tenant].some((name) => {
    const parts = expression.split('||').filter((part) => new RegExp(`\\b${name}\\b`).test(part))
    return parts.some((part) => !cuts.test(part))
  })
}

function uniqueFindings(judging: Judging, tenants: TenantTables, index: UniqueIndex): Finding[] {
  if (!tellsOfOthers(judging, tenants, index)) return []
  const { catalog } = judging
  const relation = catalog.relations.get(index.relation)!
  const keys = index.keys.join(', ')
  const tells = 'a refusal tells that another tenant has it'
  if (index.operators.length > 0) {
    const object = `${relation.name} constraint ${index.name}`
    return [
      found('exclusion-without-tenant', object, `excludes (${keys}) across tenants: ${tells}`, {
        fix: `add ${catalog.tenantColumn} with = to the constraint`,
      }),
    ]
  }
  const object = `${relation.name} index ${index.name}`
  return [
    found('unique-without-tenant', object, `is unique on (${keys}) across tenants: ${tells}`, {
      fix: `create unique index on ${relation.name} (${[catalog.tenantColumn, ...index.keys].join(', ')}); and drop ${index.name}`,
    }),
  ]
}
