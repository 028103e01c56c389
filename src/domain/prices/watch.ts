import type { Database } from '../../adapters/postgres/client.ts'
import { followIncidents } from '../incident/follow.ts'
import { PRICE_NOTICE_MS, priceLapses } from './lapses.ts'
import { forgetPriceRefusals } from './refusals.ts'

const MODE = 'billing/FM-14'

/**
 * One pass: a ticket for each price list that ends within 7 days and is not followed, once; those of lists that are
 * followed by now are closed.
 */
export async function watchPrices({ db }: { db: Database }): Promise<{ opened: number; closed: number }> {
  const lapses = await priceLapses({ db }, { withinMs: PRICE_NOTICE_MS })
  const incidents = lapses.map(({ tenantId, listId, tenant, list, currency, endsAt, whole, items }) => ({
    dedupeKey: `${MODE}:${tenantId}:${listId}`,
    severity: 'ticket' as const,
    service: 'billing' as const,
    title: `Price list ${list} of ${tenant} ends on ${endsAt.toISOString()} and ${
      whole ? 'nothing follows it' : `${items.length} of its items have no price afterwards`
    }`,
    detail: { tenant, list, currency, endsAt, items: items.slice(0, 20), notify: ['ops'] },
    runbook: 'runbooks/billing/fm-14-price-list-lapse.md',
  }))
  return db.transaction(async (tx) => {
    const followed = await followIncidents(tx, incidents, {
      mode: MODE,
      by: 'price-watch',
      resolution: 'its prices go on',
    })
    await forgetPriceRefusals(tx)
    return followed
  })
}
