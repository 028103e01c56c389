import { PRICE_NOTICE_MS, priceLapses } from '../../domain/prices/lapses.ts'
import { countPriceRefusal, priceRefusalSpikes } from '../../domain/prices/refusals.ts'
import { asTenant } from '../../domain/sessions/tenant.ts'
import { failureMode } from '../failure-mode.ts'

export default failureMode({
  id: 'billing/FM-14',
  kind: 'alert',
  title: 'A price list ends within 7 days and nothing follows it',
  severity: 'ticket',
  detect: {
    metric: 'billing_price_lapses',
    // The cause seven days ahead, and the symptom: PRICE_NOT_FOUND spikes for an item that still has no price.
    measure: async (app) => {
      const [lapses, spikes] = await Promise.all([
        priceLapses(app, { withinMs: PRICE_NOTICE_MS }),
        priceRefusalSpikes(app),
      ])
      const lists = lapses
        .slice(0, 20)
        .map(({ tenant, list, endsAt }) => `${tenant} ${list} ${endsAt.toISOString()}`)
      const refused = spikes.slice(0, 20).map(({ tenant, item, recent }) => `${tenant} ${item} ${recent}`)
      return { value: lapses.length + spikes.length, evidence: { lists, 'refused in 5 min': refused } }
    },
    fires: { above: 0 },
    says: (count) =>
      count > 0
        ? `${count} price list${count === 1 ? ' ends' : 's end'} within 7 days and nothing follows, or charges find no price`
        : 'every price list is followed by another, or does not end',
    entails: [],
  },
  mitigate: { worker: 'price-watch', command: ['prices', 'extend', '--within', '7d', '--yes'] },
  drill: {
    // One clinic's list ends in three days, another's ended an hour ago and its charges are refused.
    inject: async (world) => {
      for (const ends of ['3 days', '-1 hour']) {
        const tenantId = await world.tenant()
        await asTenant(world.service, tenantId, async (tx) => {
          await tx.query('delete from billing.price')
          await tx.query('delete from billing.price_list')
          await tx.query(
            `insert into billing.item (tenant_id, code) values ($1, 'CONSULT-REMOTE') on conflict do nothing`,
            [tenantId],
          )
          await tx.query(
            `with list as (
               insert into billing.price_list (tenant_id, name, currency, effective)
               values ($1, 'standing', 'AFN', tstzrange(now() - interval '1 year', now() + $2::interval)) returning id)
             insert into billing.price (tenant_id, price_list_id, item_code, amount_minor)
             select $1, id, 'CONSULT-REMOTE', 50000 from list`,
            [tenantId, ends],
          )
        })
        if (ends.startsWith('-'))
          for (let n = 0; n < 12; n += 1)
            await countPriceRefusal(world.db, { tenantId, itemCode: 'CONSULT-REMOTE' })
      }
      return { async [Symbol.asyncDispose]() {} }
    },
    verify: async (world) => {
      const priced = await world.db.query<{ slug: string }>(
        `select slug from tabib.tenant t where not exists (
           select from billing.price_list list join billing.price on price.price_list_id = list.id
           where list.tenant_id = t.id and effective @> now() and effective @> now() + interval '8 days'
             and amount_minor = 50000)`,
      )
      return priced.map(({ slug }) => `${slug} has no price for its consultation`)
    },
  },
})
