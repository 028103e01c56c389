import type { Catalog, Relation } from './catalog.ts'
import { columnName } from './confinement.ts'

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
  // Without a key that says so: a table that is called as the column is, and has it for its own key.
  for (const { relation: oid, primary, columns } of catalog.uniqueIndexes) {
    const relation = relations.get(oid)
    const [key] = relation && primary && columns.length === 1 ? [columnName(relation, columns[0]!)] : []
    const stem = tenantColumn.replace(/_?id$/i, '').toLowerCase()
    if (key === tenantColumn && relation!.bare.toLowerCase().replace(/e?s$/, '') === stem.replace(/e?s$/, ''))
      roots.set(oid, key)
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
