import type { Database, Queryable, Transaction } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { fails } from '../../findings-report.ts'
import { canonicalJson, planHash } from '../audit/canonical-json.ts'
import { PAYABLE_CURRENCIES } from './currency.ts'
import { examineTenants } from './examine.ts'
import { readTenant, type StoredTenant } from './read.ts'
import type { Tenant } from './tenant.ts'

export interface TenantPlan {
  tenant: string
  /** Null: it is not there yet. */
  id: string | null
  status: Tenant['status'] | null
  /** What the database has and the document has not, and the other way round: JSON of single values. */
  changes: { path: string; from: string | null; to: string | null }[]
}

/**
 * What a document changes of what the database has of its tenant. Status is none of it: a tenant is made onboarding, and
 * goes live by `goLive`. Reads only.
 * @throws TabibError TENANT_REFUSED with everything that no document may change.
 */
export async function planTenant({ db }: { db: Queryable }, tenant: Tenant): Promise<TenantPlan> {
  const stored = await readTenant(db, tenant.slug)
  const [from, to] = [statements(stored?.tenant), statements(tenant)]
  const changes = [...new Set([...from.keys(), ...to.keys()])]
    .map((path) => ({ path, from: from.get(path) ?? null, to: to.get(path) ?? null }))
    .filter(({ from, to }) => from !== to)
    // Services open accounts of their own, which no document need name.
    .filter(({ path, to }) => !(path.startsWith('accounts.') && to === null))
  if (stored) await refuse(stored, tenant, changes)
  return { tenant: tenant.slug, id: stored?.id ?? null, status: stored?.tenant.status ?? null, changes }
}

/**
 * Writes a document to where the database keeps its parts, whole or not at all; the same again changes nothing.
 * @param hash Of the plan that was shown.
 * @throws TabibError PLAN_STALE when the tenant is not what it was planned from.
 */
export async function applyTenant(
  { db }: { db: Database },
  { tenant, hash }: { tenant: Tenant; hash: string },
): Promise<{ id: string; changed: number }> {
  return db.transaction(async (tx) => {
    await lockTenant(tx, tenant.slug)
    const plan = await planTenant({ db: tx }, tenant)
    if (planHash(plan) !== hash) {
      throw new TabibError('PLAN_STALE', `${tenant.slug} has been changed since this was planned`, {
        suggestions: ['the same command with --dry-run'],
      })
    }
    const [{ id } = { id: '' }] = await tx.query<{ id: string }>(
      'select coalesce($1::uuid, tabib.uuid_v7()) as id',
      [plan.id],
    )
    if (plan.changes.length > 0) await writeTenant(tx, id, tenant)
    return { id, changed: plan.changes.length }
  })
}

/** One change at a time of a tenant's document and status. */
export async function lockTenant(tx: Transaction, slug: string): Promise<void> {
  await tx.query(`select pg_advisory_xact_lock(hashtextextended('tabib.tenant ' || $1, 0))`, [slug])
}

/** Makes the parts of a tenant what its document says, all but its status; accounts are opened and never changed. */
export async function writeTenant(tx: Transaction, id: string, tenant: Tenant): Promise<void> {
  const { slug, name, status: _, currency, items, priceLists, accounts, ...profile } = tenant
  const {
    residency: { region, allowed, ...residency },
  } = profile
  await tx.query(`select set_config('app.tenant_id', $1, true)`, [id])
  await tx.query(
    `insert into tabib.tenant (id, slug, name, region, currency) values ($1, $2, $3, $4, $5)
     on conflict (id) do update set name = excluded.name, region = excluded.region, currency = excluded.currency`,
    [id, slug, name, region, currency ?? null],
  )
  await tx.query('delete from tabib.tenant_region where tenant_id = $1 and region <> all($2)', [id, allowed])
  await tx.query(
    `insert into tabib.tenant_region (tenant_id, region) select $1, unnest($2::text[]) on conflict do nothing`,
    [id, allowed],
  )
  await tx.query(
    `insert into tabib.tenant_profile (tenant_id, document) values ($1, $2)
     on conflict (tenant_id) do update set document = excluded.document, updated_at = now()`,
    [id, canonicalJson({ ...profile, residency })],
  )
  await writeItems(tx, id, items)
  await writePrices(tx, id, priceLists)
  // After the prices, which name them.
  await tx.query('delete from billing.item where tenant_id = $1 and code <> all($2)', [
    id,
    items.map(({ code }) => code),
  ])
  await tx.query(
    `insert into billing.account (tenant_id, code, currency, opening_minor)
     select $1, * from jsonb_to_recordset($2) as t(code text, currency text, "openingMinor" bigint)
     on conflict (tenant_id, code) do nothing`,
    [id, JSON.stringify(accounts)],
  )
}

async function writeItems(tx: Transaction, id: string, items: Tenant['items']): Promise<void> {
  await tx.query(
    `insert into billing.item (tenant_id, code, sellable, tax_code)
     select $1, * from jsonb_to_recordset($2) as t(code text, sellable boolean, tax text)
     on conflict (tenant_id, code) do update set sellable = excluded.sellable, tax_code = excluded.tax_code`,
    [id, JSON.stringify(items)],
  )
}

async function writePrices(tx: Transaction, id: string, lists: Tenant['priceLists']): Promise<void> {
  const document = JSON.stringify(lists)
  await tx.query(
    `insert into billing.price_list (tenant_id, name, currency, effective)
     select $1, name, currency, tstzrange("from", "to")
     from jsonb_to_recordset($2) as t(name text, currency text, "from" timestamptz, "to" timestamptz)
     on conflict (tenant_id, name) do update set currency = excluded.currency, effective = excluded.effective`,
    [id, document],
  )
  await tx.query(
    `with wanted as (
       select list.id, price.item, price."amountMinor"
       from jsonb_to_recordset($2) as t(name text, prices jsonb)
       join billing.price_list list on list.tenant_id = $1 and list.name = t.name,
       jsonb_to_recordset(t.prices) as price(item text, "amountMinor" bigint)),
     gone as (
       delete from billing.price p where tenant_id = $1
         and not exists (select from wanted where (id, item) = (p.price_list_id, p.item_code)))
     insert into billing.price (tenant_id, price_list_id, item_code, amount_minor)
     select $1, * from wanted
     on conflict (tenant_id, price_list_id, item_code) do update set amount_minor = excluded.amount_minor`,
    [id, document],
  )
  await tx.query('delete from billing.price_list where tenant_id = $1 and name <> all($2)', [
    id,
    lists.map(({ name }) => name),
  ])
}

/** Why a document that follows the schema still cannot be written: each with its place. */
export function unwritable(
  tenant: Tenant,
  regions: readonly string[] | undefined,
): { path: (string | number)[]; message: string }[] {
  const { items, priceLists, accounts, residency } = tenant
  const problems: { path: (string | number)[]; message: string }[] = []
  const twice = (path: (string | number)[], names: readonly string[], key: string) => {
    for (const [i, name] of names.entries()) {
      if (names.indexOf(name) < i) problems.push({ path: [...path, i, key], message: `${name} stands twice` })
    }
  }
  if (residency.region === undefined) {
    problems.push({
      path: ['residency', 'region'],
      message: 'must be set: nothing is written without a region',
    })
  }
  for (const [path, region] of [
    [['residency', 'region'], residency.region] as const,
    ...residency.allowed.map((region, i) => [['residency', 'allowed', i], region] as const),
  ]) {
    if (region === undefined || regions === undefined || regions.includes(region)) continue
    problems.push({ path: [...path], message: `no region "${region}"; there are ${regions.join(', ')}` })
  }
  twice(
    ['items'],
    items.map(({ code }) => code),
    'code',
  )
  twice(
    ['priceLists'],
    priceLists.map(({ name }) => name),
    'name',
  )
  twice(
    ['accounts'],
    accounts.map(({ code }) => code),
    'code',
  )
  for (const [i, { code }] of accounts.entries()) {
    if (code.includes(':'))
      problems.push({
        path: ['accounts', i, 'code'],
        message: `${code} is opened when it is first posted to`,
      })
  }
  for (const [i, { from, to, prices }] of priceLists.entries()) {
    if (to !== undefined && Date.parse(to) <= Date.parse(from)) {
      problems.push({ path: ['priceLists', i, 'to'], message: 'must lie after its "from"' })
    }
    twice(
      ['priceLists', i, 'prices'],
      prices.map(({ item }) => item),
      'item',
    )
    for (const [j, { item }] of prices.entries()) {
      if (items.some(({ code }) => code === item)) continue
      problems.push({ path: ['priceLists', i, 'prices', j, 'item'], message: `${item} is none of the items` })
    }
  }
  return problems
}

/** @throws TabibError TENANT_REFUSED with all that stands against it. */
async function refuse(
  { id, tenant: stored }: StoredTenant,
  tenant: Tenant,
  changes: TenantPlan['changes'],
): Promise<void> {
  const isLive = stored.status === 'live'
  const now = new Date()
  const against = changes.flatMap(({ path, from, to }) => {
    const [part = '', name] = path.split('.')
    if (part === 'accounts' && from !== null) {
      return [`${path}: an account stays as it was opened`]
    }
    if (!isLive) return []
    if (path === 'currency' && PAYABLE_CURRENCIES.includes(stored.currency ?? '')) {
      return [`currency: what is priced stays in ${stored.currency}`]
    }
    if (/^residency\.(region|allowed)/.test(path)) {
      return [`${path}: where the data of a live tenant may be is changed by tabib residency allow alone`]
    }
    const list = stored.priceLists.find((one) => one.name === name)
    const hasBegun = list !== undefined && Date.parse(list.from) <= now.getTime()
    return part === 'priceLists' && path === `priceLists.${name}.name` && to === null && hasBegun
      ? [`priceLists.${name}: it has begun, and what was charged by it must be seen`]
      : []
  })
  if (isLive) {
    const failing = async (one: Tenant) => {
      const { findings } = await examineTenants([{ id, tenant: one }], { now })
      return findings.filter(fails)
    }
    const before = new Set((await failing(stored)).map(({ cacheKey }) => cacheKey))
    const broken = (await failing({ ...tenant, status: 'live' })).filter(
      ({ cacheKey }) => !before.has(cacheKey),
    )
    against.push(...broken.map(({ id: check, message }) => `${check} would fail: ${message}`))
  }
  if (against.length === 0) return
  throw new TabibError(
    'TENANT_REFUSED',
    `${tenant.slug} is not changed like this:\n${against.map((why) => `  ${why}`).join('\n')}`,
    { suggestions: [`tabib tenant check ${tenant.slug}`], context: { against } },
  )
}

/** A document as single values by path, whatever the order of its lists: `priceLists.1405.currency` is `"AFN"`. */
function statements(tenant: Tenant | undefined): Map<string, string> {
  const found = new Map<string, string>()
  const look = (value: unknown, path: string) => {
    if (Array.isArray(value) && value.some((one) => typeof one === 'object')) {
      for (const one of value) look(one, `${path}.${nameOf(one)}`)
    } else if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
      for (const [key, inner] of Object.entries(value)) look(inner, path === '' ? key : `${path}.${key}`)
    } else if (value !== undefined && !(Array.isArray(value) && value.length === 0)) {
      found.set(path, JSON.stringify(value))
    }
  }
  if (tenant === undefined) return found
  const { status: _, residency, priceLists, ...rest } = tenant
  const moment = (text: string | undefined) => (text === undefined ? undefined : new Date(text).toISOString())
  look(
    {
      ...rest,
      residency: { ...residency, allowed: [...new Set(residency.allowed)].sort() },
      // Postgres writes moments in its own way.
      priceLists: priceLists.map((list) => ({ ...list, from: moment(list.from), to: moment(list.to) })),
    },
    '',
  )
  return found
}

const NAMES = ['code', 'name', 'item', 'label', 'user', 'channel', 'address', 'locale']
const nameOf = (one: Record<string, unknown>): string =>
  NAMES.flatMap((name) => (one[name] === undefined ? [] : [one[name]])).join(' ')
