import type { Database } from '../../adapters/postgres/client.ts'
import { asTenant } from '../sessions/tenant.ts'
import { type PriceLapse, priceLapses } from './lapses.ts'

const DAY_MS = 86_400_000

/** One list and what becomes of it: it holds longer, or its prices are added to the lists that follow it. */
export interface PriceExtension {
  tenantId: string
  tenant: string
  listId: string
  list: string
  endsAt: Date
  /** Until when its prices hold. */
  until: Date
  /** Items whose prices are added to the lists that follow; null: nothing follows, the list itself goes on. */
  addTo: { items: string[] } | null
}

export interface ExtensionPlan {
  extensions: PriceExtension[]
}

/**
 * How lists that end within a time can go on: at the prices they have, `byMs` from their end (from now, if they have
 * ended), and never beyond the beginning of a list that follows. A stop-gap until the tenant's new prices are there.
 */
export async function planExtension(
  systems: { db: Database },
  { withinMs, byMs, tenantId }: { withinMs: number; byMs: number; tenantId?: string | undefined },
): Promise<ExtensionPlan> {
  const lapses = await priceLapses(systems, { withinMs, tenantId })
  return { extensions: lapses.map((lapse) => extensionOf(lapse, byMs)) }
}

function extensionOf(lapse: PriceLapse, byMs: number): PriceExtension {
  const { tenantId, tenant, listId, list, endsAt, whole, items, nextFrom } = lapse
  // By whole days, so that a plan keeps its hash for a while.
  const until = new Date(Math.ceil((Math.max(endsAt.getTime(), Date.now()) + byMs) / DAY_MS) * DAY_MS)
  if (!whole) return { tenantId, tenant, listId, list, endsAt, until, addTo: { items } }
  const first = nextFrom !== null && nextFrom < until ? nextFrom : until
  return { tenantId, tenant, listId, list, endsAt, until: first, addTo: null }
}

/** Does the plan, a transaction a tenant, where lists still end as planned; doing it twice changes nothing. */
export async function applyExtension(
  { db }: { db: Database },
  { extensions }: ExtensionPlan,
): Promise<{ extended: number }> {
  let extended = 0
  for (const { tenantId, listId, endsAt, until, addTo } of extensions) {
    // Times are compared by milliseconds, as far as a plan tells them; a list that follows begins to the microsecond.
    const changed = await asTenant(db, tenantId, (tx) =>
      addTo === null
        ? tx.query(
            `update billing.price_list list set effective = tstzrange(lower(effective), coalesce((
               select min(lower(next.effective)) from billing.price_list next
               where next.tenant_id = list.tenant_id and next.currency = list.currency
                 and lower(next.effective) >= upper(list.effective)
                 and date_trunc('milliseconds', lower(next.effective)) <= $3), $3))
             where id = $1 and date_trunc('milliseconds', upper(effective)) = $2 returning id`,
            [listId, endsAt, until],
          )
        : tx.query(
            `insert into billing.price (tenant_id, price_list_id, item_code, amount_minor)
             select price.tenant_id, next.id, item_code, amount_minor
             from billing.price join billing.price_list list
               on (list.tenant_id, list.id) = (price.tenant_id, price.price_list_id)
             join billing.price_list next on next.tenant_id = list.tenant_id and next.currency = list.currency
               and next.id <> list.id and next.effective && tstzrange(upper(list.effective), $3)
             where list.id = $1 and date_trunc('milliseconds', upper(list.effective)) = $2 and item_code = any($4)
             on conflict do nothing returning item_code`,
            [listId, endsAt, until, addTo.items],
          ),
    )
    if (changed.length > 0) extended += 1
  }
  return { extended }
}
