import type { Finding } from '../../../finding.ts'
import { type Catalog, type Routine, reachable } from '../catalog.ts'
import { type Judging, nameOfSetting, onlyLooksUp } from '../confinement.ts'
import type { TenantTables } from '../tenant-tables.ts'
import { type Family, finding, type Judged } from './family.ts'

const titles = {
  'view-runs-as-owner': 'every view on tenant tables runs as its reader (security_invoker)',
  'materialized-view': 'no materialised view of tenant data is readable',
  'definer-function': 'the role calls no SECURITY DEFINER function',
  'definer-trigger': 'no trigger runs as its owner past every policy, or with a search_path of the caller’s',
  'function-sets-tenant':
    'no function changes the tenant for longer than its transaction, or to one of its own',
  leakproof: 'no function of the database claims to be leakproof',
  notify: 'no trigger tells rows to whoever listens',
  rule: 'no rule rewrites statements on tenant tables',
  'event-trigger': 'no event trigger opens what is made',
}
const found = finding<keyof typeof titles>

/** What runs as somebody else, or in front of a policy. */
export const code: Family = {
  titles,
  findings: ({ judging, tenants: { tables } }: Judged) => [
    ...viewFindings(judging.catalog, tables),
    ...[...judging.catalog.routines.values()].flatMap((routine) => routineFindings(judging, routine)),
    ...attachedFindings(judging, tables),
  ],
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
  const { role, relations } = catalog
  return [...relations.values()].flatMap((view) => {
    if ((view.kind !== 'view' && view.kind !== 'materialized') || !reachable(view)) return []
    const reads = tenantSources(catalog, tables, view.oid)
    // A view of the role's own runs as the role.
    const asReader = view.kind === 'view' && (view.invoker || view.owner === role.oid)
    if (reads.length === 0 || asReader) return []
    const evidence = { reads }
    const revoke = `revoke all on ${view.name} from ${role.name}, public;`
    if (view.kind === 'materialized') {
      const message = `${role.name} reads a copy of tenant data that no policy covers`
      return found('materialized-view', view.name, message, { evidence, fix: revoke })
    }
    // Before Postgres 15 every view runs as its owner.
    const fix =
      catalog.versionNumber < 150_000 ? revoke : `alter view ${view.name} set (security_invoker = true);`
    const message = `reads tenant tables as its owner, and ${role.name} may use it`
    return found('view-runs-as-owner', view.name, message, { evidence, fix })
  })
}

const pinned = ({ config }: Routine): boolean => config.some((one) => one.startsWith('search_path='))

function routineFindings(judging: Judging, routine: Routine): Finding[] {
  const { role, roles, reach } = judging.catalog
  const { name, owner, body, executable, aggregates } = routine
  if (!executable && aggregates.length === 0) return []
  const findings: Finding[] = []
  const harmless = pinned(routine) && onlyLooksUp(judging, routine)
  if (routine.definer && !routine.returnsTrigger && !reach.has(owner) && !harmless) {
    const loose = pinned(routine) ? '' : '; its search_path is not fixed'
    const through = executable ? '' : ` through ${aggregates.join(', ')}`
    const message = `runs as ${roles.get(owner)?.name}, and ${role.name} may call it${through}${loose}`
    const fix = `revoke execute on routine ${[...(executable ? [name] : []), ...aggregates].join(', ')} from ${role.name}, public;`
    findings.push(found('definer-function', name, message, { fix }))
  }
  if (routine.leakproof) {
    const message = 'claims to be leakproof, so it is called for rows before their policy is'
    findings.push(found('leakproof', name, message, { fix: `alter function ${name} not leakproof;` }))
  }
  const setting = nameOfSetting(judging.tenantSetting)
  const escaped = setting.replaceAll('.', '\\.')
  const forSession = new RegExp(
    `set_config\\s*\\(\\s*'${escaped}'[^;]*,\\s*(false|'f'|'false'|0::bool\\w*)\\s*\\)|\\bset\\s+(session\\s+)?${escaped}\\s*(=|to)\\s`,
    'i',
  )
  if (routine.config.some((one) => one.startsWith(`${setting}=`))) {
    const fix = `alter function ${name} reset ${setting};`
    findings.push(found('function-sets-tenant', name, `runs with a ${setting} of its own`, { fix }))
  } else if (forSession.test(body)) {
    const message = `sets ${setting} for the session: behind a pool the next client inherits it`
    const fix = `set_config('${setting}', …, true)`
    findings.push(found('function-sets-tenant', name, message, { fix }))
  }
  return findings
}

function attachedFindings(judging: Judging, tables: TenantTables['tables']): Finding[] {
  const { catalog } = judging
  const { routines, relations, roles, reach, role } = catalog
  return catalog.attached.flatMap(({ kind, name, relation, routine }) => {
    const [on, called] = [relations.get(relation), routines.get(routine)]
    const { body = '' } = called ?? {}
    if (kind === 'event trigger') {
      const opens = new RegExp(
        `(disable|no\\s+force)\\s+row\\s+level|\\bbypassrls|\\bgrant\\b[^;]*\\bto\\s+(public|%|${role.name})`,
        'i',
      )
      if (!called || !(opens.test(body) || reach.has(called.owner))) return []
      const message = opens.test(body)
        ? 'opens what is made or changed'
        : `calls ${called.name}, which ${role.name} may replace`
      return found('event-trigger', name, message, { fix: `drop event trigger ${name};` })
    }
    if (!on) return []
    if (kind === 'rule') {
      const touches = tables.has(relation) || tenantSources(catalog, tables, relation).length > 0
      if (!touches || !(tables.has(relation) || reachable(on))) return []
      const message = 'rewrites statements, and what it adds runs as the owner'
      return found('rule', `${on.name} rule ${name}`, message, { fix: `drop rule ${name} on ${on.name};` })
    }
    if (!called || !reachable(on)) return []
    const object = `${on.name} trigger ${name}`
    const findings: Finding[] = []
    if (tables.has(relation) && TELLS_ROWS.test(body)) {
      const message = `${called.name} sends whole rows to every session that listens, whosever it is`
      findings.push(found('notify', object, message, { fix: 'notify with an id, and let the listener read' }))
    }
    // Of a table, attempts show whether it reaches other tenants; of a view nothing else stands between.
    const across = on.kind === 'view' || reachesAcross(judging, tables, called)
    if (called.definer && !reach.has(called.owner) && (across || !pinned(called))) {
      const loose = pinned(called) ? '' : '; its search_path is not fixed, so its caller says what it means'
      const message = `calls ${called.name} as ${roles.get(called.owner)?.name}${loose}`
      const fix = loose ? 'set search_path = pg_catalog, pg_temp' : 'security invoker'
      findings.push(
        found('definer-trigger', object, message, { fix: `alter function ${called.name} ${fix};` }),
      )
    }
    return findings
  })
}

const TELLS_ROWS =
  /pg_notify\s*\([^;]*((row_to_json|to_jsonb?|hstore)\s*\(\s*(new|old)\s*\)|\b(new|old)\s*(::|\)))/i

/** Whether a function that no policy holds back looks into a tenant table and asks for no tenant. */
function reachesAcross(
  { catalog: { roles, relations, tenantColumn }, tenantSetting }: Judging,
  tables: TenantTables['tables'],
  { owner, body }: Routine,
): boolean {
  const runsAs = roles.get(owner)
  if (!runsAs?.superuser && !runsAs?.bypassesRls) return false
  if (body.includes(tenantColumn) || body.includes(nameOfSetting(tenantSetting))) return false
  const named = [...body.matchAll(/\b(?:update|from|join)\s+(?:only\s+)?([\w".]+)/gi)].map(([, name]) =>
    name!.split('.').at(-1)!.replaceAll('"', ''),
  )
  return [...tables.keys()].some((oid) => named.includes(relations.get(oid)?.bare ?? ''))
}
