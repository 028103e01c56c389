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
  /**
   * Where the setting is not the tenant but leads to it, the tables that say how (memberships, sessions), each with the
   * column that holds the setting's value.
   */
  lookups: Map<number, string>
  /** Of those, the ones whose own policies for writing are being judged. */
  writing?: ReadonlySet<number>
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
  const own =
    written && judging.lookups.has(relation.oid)
      ? { ...judging, writing: new Set(judging.writing).add(relation.oid) }
      : judging
  const judged = judging.catalog.policies
    .filter((policy) => policy.relation === relation.oid && [command, 'all'].includes(policy.command))
    .map((policy) => {
      const text = written ? (policy.check ?? policy.using) : policy.using
      // Without an expression a policy lets nothing through.
      const why = text === null ? undefined : whyOpen(own, relation, parseExpression(text))
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

/** Whether the policies of a table confine an access to it. */
export function confinedTo(judging: Judging, relation: Relation, access: Access): boolean {
  return relation.rls && judgeAccess(judging, relation, access).confined
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
      if (operator !== '=' && operator !== '= any') return false
      const mine = (one: Expression, other: Expression) => {
        if (tenantColumn(judging, relation, one) === undefined)
          return isLookedUpBy(judging, relation, one, other)
        if (isSetting(judging, other)) return true
        const select = selectOf(judging, other)
        return select !== undefined && fromParentOrLookup(judging, relation, select, [one])
      }
      return mine(left, right) || mine(right, left)
    }
    case 'select': {
      const { from, where, values } = expression.select
      const whole = from.length === 0 && where === undefined && values.length === 1
      return whole && implies(judging, relation, values[0]!)
    }
    case 'exists':
      return fromParentOrLookup(judging, relation, expression.select, [])
    case 'in':
      return fromParentOrLookup(judging, relation, expression.select, expression.left)
    case 'call': {
      const body = inlined(judging, {
        ...expression,
        args: expression.args.map((arg) => ofRow(relation, arg)),
      })
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

function bareColumn({ bare, columns }: Relation, expression: Expression): string | undefined {
  if (expression.kind !== 'column') return undefined
  const [column, qualifier] = [expression.path.at(-1)!, expression.path.at(-2)]
  if (qualifier !== undefined && qualifier !== bare) return undefined
  return columns.some((one) => one.name === column) ? column : undefined
}

/** A column of the row said as such, so that it is none of a table within. */
function ofRow(relation: Relation, expression: Expression): Expression {
  const column = bareColumn(relation, expression)
  return column === undefined ? expression : { kind: 'column', path: [relation.bare, column] }
}

// A cast that cuts (varchar(8), name), rounds or forgets capitals (citext) makes different tenants equal.
const FAITHFUL =
  /^(pg_catalog\.)?(uuid|text|character varying|varchar|bpchar|bigint|int8|integer|int4|int|smallint|int2|numeric)$/

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
  judging: Omit<Judging, 'tenantColumns' | 'lookups'>,
  expression: Expression,
  depth = 0,
): string | undefined {
  // Casts of the setting make no two tenants equal, so long as the column is compared whole.
  const value = expression.kind === 'cast' ? expression.arg : expression
  const of = (one: Expression | undefined) => one && settingOf(judging, one, depth + 1)
  const list = expression.kind === 'cast' && / \[\]$/.test(expression.type)
  if (list && value.kind === 'call' && builtIn(value.name) === 'current_setting')
    return addTo(of(value), '[]')
  if (value.kind === 'cast') return of(value)
  if (depth > 9) return undefined
  if (value.kind === 'select') {
    const { values, from, where } = value.select
    return from.length === 0 && !where && values.length === 1 ? of(values[0]) : undefined
  }
  if (value.kind === 'compare' && /^(->|#>)>?$/.test(value.operator)) {
    const way = literalOf(value.right.kind === 'cast' ? value.right.arg : value.right)
    if (typeof way !== 'string') return undefined
    return field(of(value.left), value.operator.startsWith('#') ? way.slice(1, -1).split(',') : [way])
  }
  if (value.kind !== 'call') return undefined
  const [first, ...rest] = value.args
  switch (builtIn(value.name)) {
    case 'current_setting': {
      const name = first && literalOf(first)
      return typeof name === 'string' ? settingNamed(name) : undefined
    }
    case 'nullif':
    case 'string_to_array':
      return rest.length === 1 ? of(first) : undefined
    case 'lower':
    case 'upper':
    case 'btrim':
      return rest.length === 0 ? of(first) : undefined
    case 'json_extract_path_text':
    case 'jsonb_extract_path_text':
      return field(
        of(first),
        rest.map((one) => String(literalOf(one))),
      )
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

const addTo = (name: string | undefined, end: string): string | undefined => name && `${name}${end}`

/** A field of a JSON setting, by its way; none that users themselves may write. */
function field(setting: string | undefined, way: string[]): string | undefined {
  if (setting === undefined || way.some((one) => /^(raw_)?user_meta_?data$/.test(one))) return undefined
  return addTo(
    setting.replace('->>', '->'),
    [...way.slice(0, -1).map((one) => `->${one}`), `->>${way.at(-1)}`].join(''),
  )
}

/** A setting as it is compared: in small letters, and as PostgREST has it, who gives each claim both as a setting and as a field. */
export const settingNamed = (name: string): string =>
  name
    .toLowerCase()
    .replace(/^request\.jwt\.claim(?!s)\.?/, (claim) =>
      claim.endsWith('.') ? 'request.jwt.claims->>' : 'request.jwt.claims',
    )

/** A setting's own name, without the way to a field of it. */
export const nameOfSetting = (setting: string): string => setting.split(/->|\[/)[0]!

/** The settings that hold a tenant, each with its value: the tenant, a list of it, or JSON with it in the field that is read. */
export function settingsFor(setting: string, tenant: string): [name: string, value: string][] {
  const name = nameOfSetting(setting)
  const [, ...fields] = setting.split(/->>?/)
  const held =
    tenant === ''
      ? ''
      : setting.endsWith('[]')
        ? `{${tenant}}`
        : fields.length === 0
          ? tenant
          : JSON.stringify(fields.reduceRight<unknown>((inner, one) => ({ [one]: inner }), tenant))
  const claim = name === 'request.jwt.claims' && fields.length === 1 && /^\w+$/.test(fields[0]!)
  return [[name, held], ...(claim ? [[`request.jwt.claim.${fields[0]}`, tenant] as [string, string]] : [])]
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
  if (body.kind === 'select') {
    const { from, where, values } = body.select
    if (from.length === 0 && !where && values.length === 1) body = values[0]!
  }
  const given = new Map<string, Expression>()
  args.forEach((arg, i) => {
    given.set(`$${i + 1}`, arg)
    if (routine.arguments[i]) given.set(routine.arguments[i]!, arg)
  })
  return filled(catalog, body, given)
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

function filled(catalog: Catalog, body: Expression, given: Map<string, Expression>): Expression {
  const fill = (one: Expression): Expression => filled(catalog, one, given)
  // Within a select a table's column hides an argument of the same name.
  const inSelect = ({ values, from, where }: Select): Select => {
    const hidden = new Set(
      from.flatMap(({ path }) => (tableOf(catalog, path)?.columns ?? []).map(({ name }) => name)),
    )
    const left = new Map([...given].filter(([name]) => !hidden.has(name)))
    const fillWithin = (one: Expression) => filled(catalog, one, left)
    return { values: values.map(fillWithin), from, ...(where ? { where: fillWithin(where) } : {}) }
  }
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
    case 'in':
      return { ...body, left: body.left.map(fill), select: inSelect(body.select) }
    case 'exists':
    case 'select':
      return { ...body, select: inSelect(body.select) }
    default:
      return body
  }
}

/** The one table of this name; undefined where several schemas have one. */
function tableOf({ relations }: Catalog, path: string[]): Relation | undefined {
  const found = [...relations.values()].filter(
    ({ schema, bare }) => bare === path.at(-1) && (path.length === 1 || schema === path.at(-2)),
  )
  return found.length === 1 ? found[0] : undefined
}

/** A subselect that stands for its one column: itself, or what a function of the database selects. */
function selectOf(judging: Judging, expression: Expression): Select | undefined {
  const value = withoutCasts(expression)
  if (value.kind === 'call') {
    const body = inlined(judging, value)
    return body && selectOf(judging, body)
  }
  return value.kind === 'select' && value.select.from.length > 0 ? value.select : undefined
}

/** Whether a column is the one by which the setting is looked up in its own table. */
function isLookedUpBy(judging: Judging, relation: Relation, column: Expression, value: Expression): boolean {
  const key = judging.lookups.get(relation.oid)
  // A row that says who is in which tenant is not safe to write for being about oneself.
  if (judging.writing?.has(relation.oid)) return false
  return key !== undefined && bareColumn(relation, withoutCasts(column)) === key && isSetting(judging, value)
}

/**
 * Whether a subselect finds the row's own parent among rows that are the tenant's, or the row's tenant where the setting
 * is looked up. A parent is confined for readers or compared with the setting, and joined by a foreign key's columns; what
 * the role could write about itself leads nowhere.
 */
function fromParentOrLookup(
  judging: Judging,
  relation: Relation,
  { from, where, values }: Select,
  left: Expression[],
): boolean {
  const { catalog } = judging
  const conditions = conditionsOf(where)
  const pairs = [
    ...equalitiesOf(conditions),
    ...left.flatMap((one, i) => (values[i] ? [[ofRow(relation, one), values[i]] as const] : [])),
  ]
  return from.some(({ path, alias }) => {
    const table = tableOf(catalog, path)
    if (!table) return false
    const aliased = { ...table, bare: alias }
    const theirs = (one: Expression) => bareColumn(aliased, withoutCasts(one))
    // A name that both have is the inner table's.
    const mine = (one: Expression) => {
      const value = withoutCasts(one)
      const hidden = value.kind === 'column' && value.path.length === 1 && theirs(value) !== undefined
      return hidden ? undefined : bareColumn(relation, value)
    }
    const joined = (own: string, other: string) =>
      pairs.some(
        ([a, b]) => (mine(a) === own && theirs(b) === other) || (mine(b) === own && theirs(a) === other),
      )
    const byKey = catalog.foreignKeys.some(
      (key) =>
        key.relation === relation.oid &&
        key.references === table.oid &&
        key.columns.every((number, i) =>
          joined(columnName(relation, number), columnName(table, key.referenced[i]!)),
        ),
    )
    if (byKey) {
      const own = table.rls && judging.confined.has(table.oid)
      return own || conditions.some((one) => implies(judging, aliased, one))
    }
    const key = judging.lookups.get(table.oid)
    if (key === undefined || !isTrusted(judging, table)) return false
    const asked = pairs.some(
      ([a, b]) =>
        (theirs(a) === key && isSetting(judging, b)) || (theirs(b) === key && isSetting(judging, a)),
    )
    const tenants = [...judging.tenantColumns(table)]
    return (
      asked && [...judging.tenantColumns(relation)].some((own) => tenants.some((one) => joined(own, one)))
    )
  })
}

/** What a row must fulfil, one by one. */
function conditionsOf(where: Expression | undefined): Expression[] {
  if (where === undefined) return []
  return where.kind === 'and' ? where.args.flatMap(conditionsOf) : [where]
}

const equalitiesOf = (conditions: Expression[]): (readonly [Expression, Expression])[] =>
  conditions.flatMap((one) =>
    one.kind === 'compare' && one.operator === '=' ? [[one.left, one.right] as const] : [],
  )

/** Whether the role cannot say of itself in this table which tenant it is in. */
function isTrusted(judging: Judging, table: Relation): boolean {
  const can = (privilege: 'INSERT' | 'UPDATE') => table.privileges.has(privilege)
  return (
    judging.writing?.has(table.oid) ||
    ((!can('INSERT') || confinedTo(judging, table, 'insert')) &&
      (!can('UPDATE') || confinedTo(judging, table, 'update check')))
  )
}

/**
 * Whether all that a function can return is the setting, or what is looked up by it: as its owner it shows its caller
 * nothing else.
 */
export function onlyLooksUp(judging: Judging, { body, language }: Routine): boolean {
  if (!['sql', 'plpgsql'].includes(language)) return false
  return [...within(parseFunctionBody(body))].every((one) => {
    if (one.kind === 'unknown') return false
    if (one.kind === 'call') return HARMLESS.has(builtIn(one.name) ?? '')
    if (one.kind !== 'in' && one.kind !== 'exists' && one.kind !== 'select') return true
    const { from, where } = one.select
    const pairs = equalitiesOf(conditionsOf(where))
    return from.every(({ path, alias }) => {
      const table = tableOf(judging.catalog, path)
      if (!table) return false
      const aliased = { ...table, bare: alias }
      return pairs.some(
        ([a, b]) => isLookedUpBy(judging, aliased, a, b) || isLookedUpBy(judging, aliased, b, a),
      )
    })
  })
}

const HARMLESS = new Set(['current_setting', 'nullif', 'coalesce', 'lower', 'upper', 'btrim', 'now'])

/**
 * The tables in which policies look the setting up: asked by a column that is compared with it, for a column that holds
 * the tenant.
 */
export function lookupsOf(judging: Omit<Judging, 'lookups'>): Map<number, string> {
  const { catalog, tenantSetting } = judging
  const lookups = new Map<number, string>()
  const look = (expression: Expression, depth = 0): void => {
    for (const one of within(expression)) {
      if (one.kind === 'call' && depth < 5) {
        const body = inlined(judging, one)
        if (body) look(body, depth + 1)
      }
      if (one.kind !== 'in' && one.kind !== 'exists' && one.kind !== 'select') continue
      const { from, where, values } = one.select
      const left = one.kind === 'in' ? one.left : []
      const pairs = [
        ...equalitiesOf(conditionsOf(where)),
        ...left.flatMap((each, i) => (values[i] ? [[each, values[i]] as const] : [])),
      ]
      for (const { path, alias } of from) {
        const table = tableOf(catalog, path)
        if (!table) continue
        const tenants = judging.tenantColumns(table)
        for (const [a, b] of pairs.flatMap(([a, b]) => [[a, b] as const, [b, a] as const])) {
          const key = bareColumn({ ...table, bare: alias }, withoutCasts(a))
          if (key === undefined || tenants.size === 0 || tenants.has(key)) continue
          if (settingOf(judging, b) === tenantSetting) lookups.set(table.oid, key)
        }
      }
    }
  }
  for (const { using, check } of catalog.policies) {
    for (const text of [using, check]) if (text !== null) look(parseExpression(text))
  }
  return lookups
}

export function columnName({ columns }: Relation, number: number): string {
  return columns.find((column) => column.number === number)?.name ?? ''
}

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
