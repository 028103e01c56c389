import type { Finding } from '../../finding.ts'
import type { Rule } from '../../findings-report.ts'
import { code } from './rules/code.ts'
import { exits } from './rules/exits.ts'
import type { Family, Judged } from './rules/family.ts'
import { grants } from './rules/grants.ts'
import { keys } from './rules/keys.ts'
import { roles } from './rules/roles.ts'
import { tables } from './rules/tables.ts'

/** Every rule that the catalogs are judged by, in the order of printing. */
const FAMILIES: Record<string, Family> = { tables, keys, roles, grants, code, exits }

/** What the catalog checks look for; a finding's id is one of these. */
export const CATALOG_RULES = Object.entries(FAMILIES).flatMap(([name, { titles }]) => rulesOf(name, titles))

/** A family's titles as rules of a report. */
export function rulesOf(category: string, titles: Record<string, string>): Rule[] {
  return Object.entries(titles).map(([name, title]) => ({ id: `isolation/${name}`, category, title }))
}

/** What the catalogs alone tell. */
export function catalogFindings(judged: Judged): Finding[] {
  return Object.values(FAMILIES).flatMap((family) => family.findings(judged))
}
