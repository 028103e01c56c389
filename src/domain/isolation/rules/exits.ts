import type { Finding } from '../../../finding.ts'
import { type Catalog, reached } from '../catalog.ts'
import type { TenantTables } from '../tenant-tables.ts'
import { type Family, finding, type Judged } from './family.ts'

const titles = {
  publication: 'no publication carries tenant tables',
  'foreign-table': 'no foreign table holds tenant data',
}
const found = finding<keyof typeof titles>

/** Where rows leave the database. */
export const exits: Family = {
  titles,
  findings: ({ judging: { catalog }, tenants: { tables } }: Judged) => [
    ...publicationFindings(catalog, tables),
    ...foreignTableFindings(catalog, tables),
  ],
}

function publicationFindings(
  { publications, relations }: Catalog,
  tables: TenantTables['tables'],
): Finding[] {
  const names = [...new Set(publications.map(({ name }) => name))]
  return names.flatMap((name) => {
    const carried = publications.flatMap((one) =>
      one.name === name && tables.has(one.relation) ? (relations.get(one.relation)?.name ?? []) : [],
    )
    if (carried.length === 0) return []
    const message = `carries ${carried.length} tenant tables to whoever subscribes, past every policy`
    return found('publication', name, message, {
      evidence: { tables: carried.slice(0, 10) },
      fix: `alter publication ${name} drop table ${carried[0]};`,
    })
  })
}

function foreignTableFindings(catalog: Catalog, tables: TenantTables['tables']): Finding[] {
  const { role } = catalog
  return [...catalog.relations.values()].flatMap((relation) => {
    const holds = tables.has(relation.oid)
    const open = reached(catalog, relation)
    if (relation.kind !== 'foreign' || !(open || holds)) return []
    const what = holds ? 'holds tenant data' : `is open to ${role.name}`
    return found('foreign-table', relation.name, `${what}, and no policy can be put on a foreign table`, {
      severity: open ? 'error' : 'warning',
      fix: `revoke all on ${relation.name} from ${role.name}, public;`,
    })
  })
}
