import type { Database, Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { PAYABLE_CURRENCIES } from './currency.ts'
import { unknownTenant } from './find.ts'

export interface CurrencyPlan {
  set: { slug: string; from: string | null; to: string }[]
  /** Tenants that somebody must decide about. */
  undecided: { slug: string; why: string }[]
}

interface Candidate {
  slug: string
  currency: string | null
  /** Of its price lists and ledger accounts. */
  used: string[]
}

/**
 * Which default currency the tenants without one are to get: the one given, else the only one that their price lists and
 * accounts are in. All live tenants without an allowed currency, or the one that is named, live or not.
 *
 * @throws TabibError USAGE for a currency nobody can pay in or that the tenant's prices are not in, NOT_NEEDED when the
 * tenant has a currency, NOT_FOUND.
 */
export async function planCurrency(
  { db }: { db: Queryable },
  { tenant, currency }: { tenant?: string | undefined; currency?: string | undefined },
): Promise<CurrencyPlan> {
  if (currency !== undefined && !PAYABLE_CURRENCIES.includes(currency)) {
    throw new TabibError('USAGE', `"${currency}" is no active ISO 4217 code, as AFN is`)
  }
  const candidates = await candidatesFor(db, tenant)
  if (tenant !== undefined) {
    const [one] = candidates
    if (one === undefined) throw await unknownTenant(db, tenant)
    if (one.currency !== null && PAYABLE_CURRENCIES.includes(one.currency)) {
      throw new TabibError(
        'NOT_NEEDED',
        `${one.slug} charges in ${one.currency}; what is priced stays in it`,
        {
          suggestions: [`tabib tenant check ${one.slug}`],
        },
      )
    }
    const other = one.used.find((used) => used !== currency)
    if (currency !== undefined && other !== undefined) {
      throw new TabibError('USAGE', `${one.slug} has price lists or accounts in ${other}, not ${currency}`, {
        suggestions: [`tabib tenant check ${one.slug} --category money`],
      })
    }
  }
  const plan: CurrencyPlan = { set: [], undecided: [] }
  for (const { slug, currency: from, used } of candidates) {
    const to = currency ?? (used.length === 1 ? used[0]! : undefined)
    if (to !== undefined && PAYABLE_CURRENCIES.includes(to)) plan.set.push({ slug, from, to })
    else if (used.length === 0) plan.undecided.push({ slug, why: 'it has no price list and no account' })
    else plan.undecided.push({ slug, why: `its price lists and accounts are in ${used.join(', ')}` })
  }
  return plan
}

/** Sets the currencies of a plan where they are still as they were; doing it twice changes nothing. */
export async function applyCurrency(
  { db }: { db: Database },
  { set }: CurrencyPlan,
): Promise<{ set: number }> {
  const rows = await db.query(
    `update tabib.tenant t set currency = plan."to"
     from jsonb_to_recordset($1) as plan (slug text, "from" text, "to" text)
     where t.slug = plan.slug and t.currency is not distinct from plan."from"
     returning t.id`,
    [JSON.stringify(set)],
  )
  return { set: rows.length }
}

function candidatesFor(db: Queryable, tenant: string | undefined): Promise<Candidate[]> {
  return db.query<Candidate>(
    `select slug, currency, array(
         select currency from billing.price_list where tenant_id = t.id
         union select currency from billing.account where tenant_id = t.id order by 1) as used
     from tabib.tenant t
     where case when $1::text is null then status = 'live' and (currency is null or currency <> all($2))
       else slug = $1 or id::text = $1 end
     order by slug`,
    [tenant ?? null, PAYABLE_CURRENCIES],
  )
}
