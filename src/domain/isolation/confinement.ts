import type { Catalog, Policy, Relation, Routine } from './catalog.ts'
import { type Expression, parseExpression, parseFunctionBody, type Select, within } from './expression.ts'

/** What a statement does to rows, and with which half of a policy it is judged. */
export type Access = 'select' | 'insert' | 'update' | 'update check' | 'delete'

/** What the judgement needs beside the catalog. */
export interface Judging {
  catalog: Catalog
  tenantSetting: string
  /** Columns of a relation that hold the tenant: the tenant column, or the key of the table of tenants. */
  tenantColumns: (relation: Relation) => Set<string>
  /** Relations whose readable rows are proven to be one tenant's. */
  confined: Set<number>
  /** Functions without arguments that were tried, and return the setting or nothing. */
  returnSetting: Set<number>
}

export interface Verdict {
  access: Access
  confined: boolean
  /** The policies that open it. */
  openedBy: { policy: Policy; why: string }[]
}

/**
 * Judges one access of the checked role to a table with row-level security. Permissive policies open together, so each
 * must imply that the row is the tenant's own; or a restrictive one does. An expression implies it when it is an equality
 * of the tenant column with the setting that fails closed, a conjunction with one such part, a disjunction of such parts
 * only, or a row of a confined parent by its foreign key.
 */
export function judgeAccess(judging: Judging, relation: Relation, access: Access): Verdict {
  const command = access === 'update check' ? 'update' : access
  const written = access === 'insert' || access === 'update check'
  const judged = judging.catalog.policies
    .filter((policy) => policy.relation === relation.oid && [command, 'all'].includes(policy.command))
    .map((policy) => {
      const text = written ? (policy.check ?? policy.using) : policy.using
      // Without an expression a policy lets nothing through.
      const why = text === null ? undefined : whyOpen(judging, relation, parseExpression(text))
      return { policy, why }
    })
  // What restrains the role may not restrain it once it has become another.
  const openedBy = judging.catalog.identities.flatMap((identity) => {
    const applying = judged.filter(({ policy }) =>
      policy.roles.some((role) => role === 0 || identity.has(role)),
    )
    if (applying.some(({ policy, why }) => !policy.permissive && why === undefined)) return []
    return applying.flatMap(({ policy, why }) =>
      policy.permissive && why !== undefined ? [{ policy, why }] : [],
    )
  })
  return {
    access,
    confined: openedBy.length === 0,
    openedBy: [...new Map(openedBy.map((one) => [one.policy, one])).values()],
  }
}

/** Why an expression does not confine a row to the tenant; undefined when it does. */
function whyOpen(judging: Judging, relation: Relation, expression: Expression): string | undefined {
  if (implies(judging, relation, expression)) return undefined
  return reasonOf(judging, relation, expression)
}

function implies(judging: Judging, relation: Relation, expression: Expression): boolean {
  switch (expression.kind) {
    case 'and':
      return expression.args.some((arg) => implies(judging, relation, arg))
    case 'or':
      return expression.args.every((arg) => implies(judging, relation, arg))
    case 'literal':
      return expression.value === false || expression.value === null
    case 'compare': {
      const { operator, left, right } = expression
      if (operator !== '=' && operator !== 'is not distinct from') return false
      const mine = (one: Expression, other: Expression) =>
        tenantColumn(judging, relation, one) !== undefined && isSetting(judging, other)
      return mine(left, right) || mine(right, left)
    }
    case 'select':
      return expression.select.from === undefined && expression.select.values.length === 1
        ? implies(judging, relation, expression.select.values[0]!)
        : false
    case 'exists':
      return ownParent(judging, relation, expression.select, [])
    case 'in':
      return ownParent(judging, relation, expression.select, expression.left)
    case 'call': {
      const body = inlined(judging, expression)
      return body !== undefined && implies(judging, relation, body)
    }
    default:
      return false
  }
}

/** The column itself, or cast to a type that keeps its values apart. */
function tenantColumn(judging: Judging, relation: Relation, expression: Expression): string | undefined {
  const column = bareColumn(relation, withoutCasts(expression))
  return column !== undefined && judging.tenantColumns(relation).has(column) ? column : undefined
}

function bareColumn({ name, columns }: Relation, expression: Expression): string | undefined {
  if (expression.kind !== 'column') return undefined
  const [column, qualifier] = [expression.path.at(-1)!, expression.path.at(-2)]
  if (qualifier !== undefined && qualifier !== unquote(name.split('.').at(-1)!)) return undefined
  return columns.some((one) => one.name === column) ? column : undefined
}

// A cast that cuts (varchar(8), name) or rounds makes different tenants equal.
const FAITHFUL =
  /^(pg_catalog\.)?(uuid|text|character varying|varchar|bpchar|citext|bigint|int8|integer|int4|int|smallint|int2|numeric)$/

function withoutCasts(expression: Expression): Expression {
  return expression.kind === 'cast' && FAITHFUL.test(expression.type)
    ? withoutCasts(expression.arg)
    : expression
}

/** The name of the column that a value is, whatever table's; undefined for anything else. */
export function columnOf(expression: Expression): string | undefined {
  const value = withoutCasts(expression)
  return value.kind === 'column' ? value.path.at(-1) : undefined
}

function isSetting(judging: Judging, expression: Expression): boolean {
  return settingOf(judging, expression) === judging.tenantSetting
}

/**
 * The setting that a value is, absent or an error where the setting is unset or empty; of a field of a JSON setting the
 * way to it as well, `request.jwt.claims->>org_id`.
 */
export function settingOf(
  judging: Omit<Judging, 'tenantColumns'>,
  expression: Expression,
  depth = 0,
): string | undefined {
  // Casts of the setting make no two tenants equal, so long as the column is compared whole.
  const value = expression.kind === 'cast' ? expression.arg : expression
  const of = (one: Expression | undefined) => one && settingOf(judging, one, depth + 1)
  if (value.kind === 'cast') return of(value)
  if (depth > 9) return undefined
  if (value.kind === 'select') {
    const { values, from, where } = value.select
    return !from && !where && values.length === 1 ? of(values[0]) : undefined
  }
  if (value.kind === 'compare' && (value.operator === '->' || value.operator === '->>')) {
    const [object, field] = [of(value.left), literalOf(value.right)]
    return object !== undefined && field != null ? `${object}${value.operator}${field}` : undefined
  }
  if (value.kind !== 'call') return undefined
  const [first, ...rest] = value.args
  switch (builtIn(value.name)) {
    case 'current_setting': {
      const name = first && literalOf(first)
      return typeof name === 'string' ? settingNamed(name) : undefined
    }
    case 'nullif':
      return rest.length === 1 ? of(first) : undefined
    case 'coalesce': {
      const name = of(first)
      return rest.every((one) => of(one) === name || isNobody(one)) ? name : undefined
    }
    default: {
      const called = routineOf(judging.catalog, value.name, value.args.length)
      if (called && judging.returnSetting.has(called.oid)) return judging.tenantSetting
      return of(inlined(judging, value))
    }
  }
}

/** A setting as it is compared: PostgREST gives each claim both as a setting and as a field of one. */
export const settingNamed = (name: string): string =>
  name.replace(/^request\.jwt\.claim(?!s)\.?/, (claim) =>
    claim.endsWith('.') ? 'request.jwt.claims->>' : 'request.jwt.claims',
  )

/** A setting's own name, without the way to a field of it. */
export const nameOfSetting = (setting: string): string => setting.split('->')[0]!

/** What a setting holds for a tenant: the tenant, or JSON with it in the field that is read. */
export function valueOfSetting(setting: string, tenant: string): string {
  const [, ...fields] = setting.split(/->>?/)
  if (fields.length === 0 || tenant === '') return tenant
  return JSON.stringify(fields.reduceRight<unknown>((inner, field) => ({ [field]: inner }), tenant))
}

// What no tenant is called.
function isNobody(expression: Expression): boolean {
  const value = literalOf(expression)
  return value === null || ['', '0', '-1', '00000000-0000-0000-0000-000000000000'].includes(String(value))
}

function literalOf(expression: Expression): string | boolean | null | undefined {
  const value = withoutCasts(expression)
  return value.kind === 'literal' ? value.value : undefined
}

function builtIn(name: string[]): string | undefined {
  if (name.length === 2 && name[0] === 'pg_catalog') return name[1]
  return name.length === 1 ? name[0] : undefined
}

/**
 * The expression that a function of the database's own returns, its arguments filled in: only where the checked role
 * cannot replace the function, and only for bodies that are one expression.
 */
function inlined(
  { catalog }: Pick<Judging, 'catalog'>,
  { name, args }: Extract<Expression, { kind: 'call' }>,
): Expression | undefined {
  const routine = routineOf(catalog, name, args.length)
  if (!routine) return undefined
  if (!['sql', 'plpgsql'].includes(routine.language)) return undefined
  let body = parseFunctionBody(routine.body)
  if (body.kind === 'select' && !body.select.from && !body.select.where && body.select.values.length === 1) {
    body = body.select.values[0]!
  }
  const given = new Map<string, Expression>()
  args.forEach((arg, i) => {
    given.set(`$${i + 1}`, arg)
    if (routine.arguments[i]) given.set(routine.arguments[i]!, arg)
  })
  return filled(body, given)
}

/** The one function of this name that takes as many arguments, unless the checked role could replace it. */
export function routineOf({ routines, reach }: Catalog, name: string[], given: number): Routine | undefined {
  const [bare, schema] = [name.at(-1), name.at(-2)]
  const found = [...routines.values()].filter(
    (one) =>
      one.bare === bare &&
      (schema === undefined || one.schema === schema) &&
      one.takes >= given &&
      one.takes - one.defaults <= given,
  )
  const [routine] = found
  return found.length === 1 && routine && !reach.has(routine.owner) ? routine : undefined
}

function filled(body: Expression, given: Map<string, Expression>): Expression {
  const fill = (one: Expression): Expression => filled(one, given)
  switch (body.kind) {
    case 'column':
      return (body.path.length === 1 && given.get(body.path[0]!)) || body
    case 'and':
    case 'or':
    case 'call':
      return { ...body, args: body.args.map(fill) }
    case 'compare':
      return { ...body, left: fill(body.left), right: fill(body.right) }
    case 'cast':
      return { ...body, arg: fill(body.arg) }
    case 'select':
      return body.select.from
        ? body
        : { ...body, select: { ...body.select, values: body.select.values.map(fill) } }
    default:
      return body
  }
}

/**
 * Whether a subselect finds the row's own parent among rows that are the tenant's: the parent is confined for readers
 * or compared with the setting, and joined by a foreign key's columns.
 */
function ownParent(judging: Judging, relation: Relation, select: Select, left: Expression[]): boolean {
  const { catalog } = judging
  const { from, where, values } = select
  if (!from) return false
  const parents = [...catalog.relations.values()].filter((one) => {
    const [schema, name] = [one.schema, unquote(one.name.slice(one.name.indexOf('.') + 1))]
    return name === from.path.at(-1) && (from.path.length === 1 || schema === from.path.at(-2))
  })
  const [parent] = parents
  if (!parent || parents.length !== 1) return false
  const aliased = { ...parent, name: from.alias }
  const conditions = where === undefined ? [] : where.kind === 'and' ? where.args : [where]
  const pairs = conditions.flatMap((one) =>
    one.kind === 'compare' && one.operator === '=' ? [[one.left, one.right] as const] : [],
  )
  left.forEach((one, i) => {
    if (values[i]) pairs.push([one, values[i]!])
  })
  const mine = (one: Expression) => bareColumn(relation, withoutCasts(one))
  const theirs = (one: Expression) => bareColumn(aliased, withoutCasts(one))
  const joined = (own: string, other: string) =>
    pairs.some(
      ([a, b]) => (mine(a) === own && theirs(b) === other) || (mine(b) === own && theirs(a) === other),
    )
  const byKey = catalog.foreignKeys.some(
    (key) =>
      key.relation === relation.oid &&
      key.references === parent.oid &&
      key.columns.every((number, i) =>
        joined(columnName(relation, number), columnName(parent, key.referenced[i]!)),
      ),
  )
  if (!byKey) return false
  const own = parent.rls && judging.confined.has(parent.oid)
  return own || conditions.some((one) => implies(judging, aliased, one))
}

export function columnName({ columns }: Relation, number: number): string {
  return columns.find((column) => column.number === number)?.name ?? ''
}

const unquote = (name: string): string => name.replace(/^"|"$/g, '').replaceAll('""', '"')

function reasonOf(judging: Judging, relation: Relation, expression: Expression): string {
  const all = [...within(expression)]
  const column = [...judging.tenantColumns(relation)][0] ?? judging.catalog.tenantColumn
  const settings = all.flatMap((one) => {
    if (one.kind !== 'call' || builtIn(one.name) !== 'current_setting' || !one.args[0]) return []
    return [String(literalOf(one.args[0]))]
  })
  const other = settings.find((name) => name !== nameOfSetting(judging.tenantSetting))
  if (expression.kind === 'literal') return 'is true for every row'
  if (other !== undefined) return `reads the setting ${other}, not ${judging.tenantSetting}`
  const calls = all.flatMap((one) => (one.kind === 'call' ? [one] : []))
  if (calls.some(({ name }) => builtIn(name) === 'coalesce')) {
    return `falls back to something else where ${judging.tenantSetting} is not set`
  }
  if (all.some((one) => one.kind === 'or')) return `is an "or" of which not every part compares ${column}`
  const replaceable = calls.find(({ name }) =>
    [...judging.catalog.routines.values()].some(
      (one) => one.bare === name.at(-1) && judging.catalog.reach.has(one.owner),
    ),
  )
  if (replaceable) return `calls ${replaceable.name.join('.')}, which the role itself may replace`
  if (settings.length === 0) return `does not compare ${column} with ${judging.tenantSetting}`
  return `is not the comparison of ${column} with ${judging.tenantSetting}`
}
