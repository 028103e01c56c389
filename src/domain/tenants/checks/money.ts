import type { TenantCheck } from '../check.ts'
import { PAYABLE_CURRENCIES } from '../currency.ts'
import type { Fix } from '../fix.ts'
import type { Tenant } from '../tenant.ts'

const DAY_MS = 86_400_000
const LAPSE_DAYS = 7
/** Ledger accounts that every posting of billing needs. */
export const ACCOUNTS = ['receivable', 'cash', 'revenue', 'tax', 'refunds'] as const

/** Currency, price lists, tax and the ledger. */
export const moneyChecks: TenantCheck[] = [
  {
    id: 'tenant/currency-set',
    category: 'money',
    severity: 'critical',
    title: 'the default currency is set',
    runbook: 'runbooks/billing/fm-13-currency-missing.md',
    run: ({ currency, priceLists }) =>
      currency
        ? []
        : [
            {
              message: 'no default currency: every payment would be refused',
              path: ['currency'],
              fix: { set: priceLists[0]?.currency ?? 'AFN' },
            },
          ],
  },
  {
    id: 'tenant/currency-allowed',
    category: 'money',
    severity: 'critical',
    title: 'currencies are active ISO 4217 codes',
    runbook: 'runbooks/billing/fm-13-currency-missing.md',
    run: ({ currency, priceLists, accounts }) =>
      [
        { code: currency, path: ['currency'] },
        ...priceLists.map((list, i) => ({ code: list.currency, path: ['priceLists', i, 'currency'] })),
        ...accounts.map((account, i) => ({ code: account.currency, path: ['accounts', i, 'currency'] })),
      ]
        .filter(({ code }) => code && !PAYABLE_CURRENCIES.includes(code))
        .map(({ code, path }) => ({
          message: `"${code}" is no currency that anybody can pay in`,
          path,
          about: path.join('.'),
          evidence: { currency: code },
          fix: { set: 'AFN', note: 'three capitals, an active code of ISO 4217' },
        })),
  },
  {
    id: 'tenant/one-currency',
    category: 'money',
    severity: 'error',
    title: 'price lists and accounts are in the default currency',
    run: ({ currency, priceLists, accounts }) =>
      [
        ...priceLists.map((list, i) => ({
          name: `price list ${list.name}`,
          code: list.currency,
          path: ['priceLists', i, 'currency'],
        })),
        ...accounts.map((account, i) => ({
          name: `account ${account.code}`,
          code: account.currency,
          path: ['accounts', i, 'currency'],
        })),
      ]
        .filter(({ code }) => currency && code !== currency)
        .map(({ name, code, path }) => ({
          message: `${name} is in ${code}, the tenant charges in ${currency}`,
          path,
          about: name,
          evidence: { currency: code, default: currency },
          fix: { set: currency },
        })),
  },
  {
    id: 'tenant/price-list',
    category: 'money',
    severity: 'critical',
    title: 'a price list is in effect',
    // Before a tenant goes live its first list may still lie ahead.
    run: ({ currency, priceLists, status }, now) =>
      spans(priceLists).some(
        ({ startMs, endMs }) =>
          endMs > now.getTime() && (status === 'onboarding' || startMs <= now.getTime()),
      )
        ? []
        : [
            {
              message: priceLists.length === 0 ? 'there is no price list' : 'no price list is in effect now',
              path: ['priceLists'],
              evidence: { priceLists: priceLists.length },
              fix: { add: listFrom(now.getTime(), priceLists, currency) },
            },
          ],
  },
  {
    id: 'tenant/price-list-lapsing',
    category: 'money',
    severity: 'error',
    title: 'prices do not end within 7 days',
    run: ({ priceLists, currency }, now) => {
      const last = spans(priceLists).reduce<Span | undefined>(later, undefined)
      if (last !== undefined && last.endMs > now.getTime() + LAPSE_DAYS * DAY_MS) return []
      const ends = iso(last?.endMs ?? now.getTime())
      const name = last?.list.name
      return [
        {
          message: name
            ? `${name} ends on ${ends} and nothing follows it`
            : 'there is no price list to follow',
          path: last ? ['priceLists', last.index, 'to'] : ['priceLists'],
          ...(name ? { about: name, evidence: { ends } } : {}),
          fix: { add: listFrom(last?.endMs ?? now.getTime(), priceLists, currency), at: ['priceLists'] },
        },
      ]
    },
  },
  {
    id: 'tenant/price-list-gaps',
    category: 'money',
    severity: 'error',
    title: 'no gap lies between price lists',
    run: ({ priceLists }, now) =>
      neighbours(priceLists)
        .filter(({ before, next }) => before.endMs < next.startMs && next.startMs > now.getTime())
        .map(({ before, next }) => ({
          message: `nothing has a price from ${iso(before.endMs)} to ${iso(next.startMs)}, when ${next.list.name} begins`,
          path: ['priceLists', next.index, 'from'],
          about: next.list.name,
          evidence: { from: iso(before.endMs), to: iso(next.startMs) },
          fix: { set: iso(before.endMs) },
        })),
  },
  {
    id: 'tenant/price-list-overlaps',
    category: 'money',
    severity: 'error',
    title: 'no price lists overlap',
    run: ({ priceLists }) => [
      ...spans(priceLists)
        .filter(({ startMs, endMs }) => endMs <= startMs)
        .map(({ list, index }) => ({
          message: `${list.name} ends before it begins`,
          path: ['priceLists', index, 'to'],
          about: list.name,
          evidence: { from: list.from, to: list.to },
          fix: { set: `<when it ends, after ${list.from}>` },
        })),
      ...neighbours(priceLists)
        .filter(({ before, next }) => before.endMs > next.startMs)
        .map(({ before, next }) => ({
          message: `${before.list.name} and ${next.list.name} both hold from ${iso(next.startMs)}`,
          path: ['priceLists', next.index, 'from'],
          about: next.list.name,
          evidence: { with: before.list.name, from: iso(next.startMs) },
          fix:
            before.startMs < next.startMs
              ? { set: iso(next.startMs), at: ['priceLists', before.index, 'to'] }
              : { set: `<when it begins, after ${before.list.name}>` },
        })),
    ],
  },
  {
    id: 'tenant/items-priced',
    category: 'money',
    severity: 'error',
    title: 'every sellable item has a price in every list from now on',
    run: ({ items, priceLists, tax }, now) => {
      const sellable = items.filter((item) => item.sellable)
      if (sellable.length === 0) {
        const fix = { add: { code: 'CONSULT-GP', tax: Object.keys(tax?.rates ?? {})[0] ?? 'standard' } }
        return [{ message: 'nothing is for sale', path: ['items'], evidence: { items: items.length }, fix }]
      }
      return spans(priceLists)
        .filter(({ endMs }) => endMs > now.getTime())
        .flatMap(({ list, index }) => {
          const priced = new Set(list.prices.map((price) => price.item))
          return sellable
            .filter(({ code }) => !priced.has(code))
            .map(({ code }) => ({
              message: `${code} has no price in ${list.name}`,
              path: ['priceLists', index, 'prices'],
              about: `${list.name} ${code}`,
              evidence: { item: code, priceList: list.name },
              fix: { add: { item: code, amountMinor: '<price in minor units>' } },
            }))
        })
    },
  },
  {
    id: 'tenant/prices-known',
    category: 'money',
    severity: 'error',
    title: 'every price is of an item, once in a list',
    run: ({ items, priceLists, tax }) => {
      const known = new Set(items.map(({ code }) => code))
      return priceLists.flatMap((list, i) =>
        list.prices.flatMap(({ item }, j) => {
          const isAgain = list.prices.findIndex((price) => price.item === item) < j
          if (known.has(item) && !isAgain) return []
          return [
            {
              message: isAgain
                ? `${item} has a second price in ${list.name}`
                : `${list.name} prices ${item}, which is no item`,
              path: ['priceLists', i, 'prices', j, 'item'],
              about: `${list.name} ${item}`,
              evidence: { item, priceList: list.name },
              fix: isAgain
                ? { drop: `${item} has its price above`, at: ['priceLists', i, 'prices', j] }
                : { add: { code: item, tax: Object.keys(tax?.rates ?? {})[0] ?? 'standard' }, at: ['items'] },
            },
          ]
        }),
      )
    },
  },
  {
    id: 'tenant/tax-profile',
    category: 'money',
    severity: 'error',
    title: 'the tax profile is complete',
    run: ({ tax }) =>
      tax?.registration || tax?.exempt
        ? []
        : [
            {
              message: tax
                ? 'neither a tax registration nor a reason for having none'
                : 'there is no tax profile',
              path: ['tax'],
              fix: tax
                ? { set: '<number>', at: ['tax', 'registration'] }
                : { set: { country: 'AF', registration: '<number>', rates: { standard: 10 } } },
            },
          ],
  },
  {
    id: 'tenant/tax-rates',
    category: 'money',
    severity: 'error',
    title: 'every sellable item has a tax rate',
    run: ({ items, tax }) =>
      items.flatMap(({ code, sellable, tax: rate }, i) =>
        !sellable || (rate !== undefined && Object.hasOwn(tax?.rates ?? {}, rate))
          ? []
          : [
              {
                message: rate
                  ? `${code} is taxed at "${rate}", which has no rate`
                  : `${code} names no tax rate`,
                path: rate ? ['items', i, 'tax'] : ['items', i],
                about: code,
                evidence: { item: code, rates: Object.keys(tax?.rates ?? {}) },
                fix: taxFix(i, rate, tax),
              },
            ],
      ),
  },
  {
    id: 'tenant/accounts',
    category: 'money',
    severity: 'critical',
    title: 'the ledger accounts are there',
    run: ({ accounts, currency }) =>
      ACCOUNTS.filter((code) => accounts.filter((account) => account.code === code).length !== 1).map(
        (code) => {
          const count = accounts.filter((account) => account.code === code).length
          return {
            message:
              count === 0 ? `the ledger account ${code} is missing` : `${count} accounts are called ${code}`,
            path: ['accounts'],
            about: code,
            evidence: { count },
            fix:
              count === 0
                ? { add: { code, currency: currency || 'AFN', openingMinor: 0 } }
                : {
                    drop: `${code} is there already`,
                    at: ['accounts', accounts.findLastIndex((account) => account.code === code)],
                  },
          }
        },
      ),
  },
  {
    id: 'tenant/accounts-open-at-zero',
    category: 'money',
    severity: 'critical',
    title: 'ledger accounts open at zero',
    run: ({ accounts }) =>
      accounts.flatMap(({ code, openingMinor }, i) =>
        openingMinor === 0
          ? []
          : [
              {
                message: `${code} opens at ${openingMinor}: a balance comes from entries alone`,
                path: ['accounts', i, 'openingMinor'],
                about: code,
                evidence: { openingMinor },
                fix: { set: 0, note: 'carry the balance over with an opening entry' },
              },
            ],
      ),
  },
]

/** A list without prices for when none holds; up to the next that begins. */
function listFrom(atMs: number, lists: readonly PriceList[], currency: string | undefined) {
  const next = Math.min(
    ...spans(lists).map(({ startMs }) => (startMs > atMs ? startMs : Number.POSITIVE_INFINITY)),
  )
  return {
    name: iso(atMs).slice(0, 10),
    currency: currency || lists[0]?.currency || 'AFN',
    from: iso(atMs),
    ...(Number.isFinite(next) ? { to: iso(next) } : {}),
    prices: [],
  }
}

/** One of the rates that there are, else a rate of the name that the item has. */
function taxFix(item: number, rate: string | undefined, tax: Tenant['tax']): Fix {
  const [known] = Object.keys(tax?.rates ?? {})
  if (known !== undefined || rate === undefined)
    return { set: known ?? 'standard', at: ['items', item, 'tax'] }
  if (tax) return { set: 10, at: ['tax', 'rates', rate], note: 'percent' }
  return { set: { country: 'AF', registration: '<number>', rates: { [rate]: 10 } }, at: ['tax'] }
}

type PriceList = Tenant['priceLists'][number]
interface Span {
  list: PriceList
  index: number
  startMs: number
  endMs: number
}

function spans(lists: readonly PriceList[]): Span[] {
  return lists.map((list, index) => ({
    list,
    index,
    startMs: Date.parse(list.from),
    // Without an end it holds for good.
    endMs: list.to === undefined ? Number.POSITIVE_INFINITY : Date.parse(list.to),
  }))
}

/** Each list but the first to begin, with the one begun before it that holds longest. */
function neighbours(lists: readonly PriceList[]): { before: Span; next: Span }[] {
  const ordered = spans(lists).sort((a, b) => a.startMs - b.startMs)
  return ordered.slice(1).map((next, i) => ({ before: ordered.slice(0, i + 1).reduce(later), next }))
}

const later = <S extends Span | undefined>(one: S, other: Span): Span =>
  one !== undefined && one.endMs >= other.endMs ? one : other

const iso = (ms: number): string => new Date(ms).toISOString().replace('.000Z', 'Z')
