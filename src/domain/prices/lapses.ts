import type { Queryable } from '../../adapters/postgres/client.ts'

/** How long before a price list ends somebody must hear of it. */
export const PRICE_NOTICE_MS = 7 * 86_400_000

/** A price list after whose end something that it prices has no price. */
export interface PriceLapse {
  tenantId: string
  tenant: string
  listId: string
  list: string
  currency: string
  endsAt: Date
  /** It has ended: charges are refused now. */
  ended: boolean
  /** Nothing at all follows it. False: another list does, and lacks `items`. */
  whole: boolean
  /** Codes of sellable items that are without a price from then on. */
  items: string[]
  /** When prices begin again, if a later list is there already. */
  nextFrom: Date | null
}

/**
 * Price lists that end within a time and are not followed without a gap, the first to end first; those that have ended
 * too, in the currency that their tenant charges in, as long as nothing took their place.
 */
export function priceLapses(
  { db }: { db: Queryable },
  { withinMs, tenantId }: { withinMs: number; tenantId?: string | undefined },
): Promise<PriceLapse[]> {
  return db.query<PriceLapse>(
    // A list counts by itself (no item) as well as by its prices: one that prices nothing must be followed too.
    `with offer as (
       select list.tenant_id, list.id, list.name, list.currency, list.effective, priced.item
       from billing.price_list list, lateral (
         select null::text as item
         union all
         select code from billing.price join billing.item on (item.tenant_id, item.code) = (price.tenant_id, price.item_code)
         where (price.tenant_id, price.price_list_id) = (list.tenant_id, list.id) and item.sellable) priced
     ), held as (
       select tenant_id, currency, item, unnest(range_agg(effective)) as span from offer group by 1, 2, 3
     ), latest as (
       select distinct on (tenant_id, currency, item) * from held where lower(span) <= now()
       order by tenant_id, currency, item, lower(span) desc
     )
     select t.id as "tenantId", t.slug as tenant, offer.id as "listId", offer.name as list, latest.currency,
       upper(span) as "endsAt", upper(span) <= now() as ended, bool_or(offer.item is null) as whole,
       coalesce(array_agg(offer.item order by offer.item) filter (where offer.item is not null), '{}') as items,
       (select min(lower(effective)) from billing.price_list next
        where next.tenant_id = t.id and next.currency = offer.currency and lower(effective) >= upper(span)) as "nextFrom"
     from latest
     join offer using (tenant_id, currency)
     join tabib.tenant t on t.id = tenant_id
     where latest.item is not distinct from offer.item and upper(offer.effective) = upper(span)
       and upper(span) <= now() + make_interval(secs => $1)
       and (upper(span) > now() or latest.currency = t.currency)
       and ($2::uuid is null or t.id = $2)
     group by t.id, offer.id, offer.name, latest.currency, offer.currency, span
     order by upper(span), t.slug, offer.name`,
    [withinMs / 1_000, tenantId],
  )
}
