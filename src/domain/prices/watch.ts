import type { Database } from '../../adapters/postgres/client.ts'
import { raiseIncident } from '../incident/raise.ts'
import { PRICE_NOTICE_MS, priceLapses } from './lapses.ts'
import { forgetPriceRefusals } from './refusals.ts'

const MODE = 'billing/FM-14'

/**
 * One pass: a ticket for each price list that ends within 7 days and is not followed, once; those of lists that are
 * followed by now are closed.
 */
export async function watchPrices({ db }: { db: Database }): Promise<{ opened: number; closed: number }> {
  const lapses = await priceLapses({ db }, { withinMs: PRICE_NOTICE_MS })
  const keyed = new Map(lapses.map((lapse) => [`${MODE}:${lapse.tenantId}:${lapse.listId}`, lapse]))
  return db.transaction(async (tx) => {
    const closed = await tx.query(
      `update tabib.incident
       set state = 'resolved', resolved_at = clock_timestamp(), resolved_by = 'price-watch',
         resolution = 'its prices go on'
       where mode = $1 and state <> 'resolved' and dedupe_key <> all($2) returning id`,
      [MODE, [...keyed.keys()]],
    )
    const open = await tx.query<{ key: string }>(
      `select dedupe_key as key from tabib.incident where mode = $1 and state <> 'resolved'`,
      [MODE],
    )
    for (const { key } of open) keyed.delete(key)
    for (const [dedupeKey, { tenant, list, currency, endsAt, whole, items }] of keyed) {
      await raiseIncident(tx, {
        dedupeKey,
        severity: 'ticket',
        mode: MODE,
        service: 'billing',
        title: `Price list ${list} of ${tenant} ends on ${endsAt.toISOString()} and ${
          whole ? 'nothing follows it' : `${items.length} of its items have no price afterwards`
        }`,
        detail: { tenant, list, currency, endsAt, items: items.slice(0, 20), notify: ['ops'] },
        runbook: 'runbooks/billing/fm-14-price-list-lapse.md',
      })
    }
    await forgetPriceRefusals(tx)
    return { opened: keyed.size, closed: closed.length }
  })
}
