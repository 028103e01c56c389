import type { Queryable } from '../../adapters/postgres/client.ts'

/** Refusals of one tenant's charges for an item that still has no price. */
export interface PriceRefusals {
  tenant: string
  item: string
  /** In the last five minutes. */
  recent: number
  /** What five minutes of the hour before saw on average. */
  usual: number
}

/**
 * Counts a charge that was refused for want of a price (PRICE_NOT_FOUND). Call it as tabib, after the charge's own
 * transaction was rolled back.
 */
export async function countPriceRefusal(
  db: Queryable,
  { tenantId, itemCode }: { tenantId: string; itemCode: string },
): Promise<void> {
  await db.query(
    `insert into billing.price_refusal as seen (tenant_id, minute, item_code, n)
     values ($1, date_trunc('minute', clock_timestamp()), left($2, 100), 1)
     on conflict (tenant_id, minute, item_code) do update set n = seen.n + 1`,
    [tenantId, itemCode],
  )
}

/**
 * Items whose refusals spike: at least 10 in five minutes, and more than three times what the hour before was used to.
 * An item that has a price again counts no more.
 */
export function priceRefusalSpikes({ db }: { db: Queryable }): Promise<PriceRefusals[]> {
  return db.query<PriceRefusals>(
    `with counted as (
       select tenant_id, item_code,
         coalesce(sum(n) filter (where minute > now() - interval '5 min'), 0)::float8 as recent,
         coalesce(sum(n) filter (where minute <= now() - interval '5 min'), 0)::float8 / 12 as usual
       from billing.price_refusal where minute > now() - interval '65 min' group by 1, 2
     )
     select t.slug as tenant, item_code as item, recent, round(usual)::float8 as usual
     from counted join tabib.tenant t on t.id = tenant_id
     where recent >= 10 and recent > 3 * usual and not exists (
       select from billing.price join billing.price_list list
         on (list.tenant_id, list.id) = (price.tenant_id, price.price_list_id)
       where price.tenant_id = counted.tenant_id and price.item_code = counted.item_code
         and list.currency = t.currency and list.effective @> now())
     order by recent desc, t.slug, item_code`,
  )
}

/** Forgets counts that are older than a month. */
export async function forgetPriceRefusals(db: Queryable): Promise<void> {
  await db.query(`delete from billing.price_refusal where minute < clock_timestamp() - interval '30 days'`)
}
