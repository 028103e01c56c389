import { currencyRefusals } from '../../domain/payments/refusals.ts'
import { tenantsWithoutCurrency } from '../../domain/tenants/without-currency.ts'
import { counted } from '../../render.ts'
import { failureMode } from '../failure-mode.ts'

export default failureMode({
  id: 'billing/FM-13',
  kind: 'alert',
  title: 'A tenant was onboarded without a currency and its payments are rejected',
  severity: 'ticket',
  detect: {
    // The cause, not the 400s that the specification watches for: it is there before the first patient pays.
    metric: 'billing_tenants_without_currency',
    measure: async (app) => {
      const tenants = await tenantsWithoutCurrency(app)
      const refused = await currencyRefusals(app)
      return { value: tenants.length, evidence: { tenants: tenants.slice(0, 20), refusedIn15Min: refused } }
    },
    fires: { above: 0 },
    says: (count) =>
      count > 0
        ? `${counted(count, 'live tenant has', 'live tenants have')} no currency that anybody can pay in`
        : 'every live tenant has a currency',
    entails: [],
  },
  mitigate: { command: ['tenant', 'set-currency', '--yes'] },
  drill: {
    // It has been live, with its price list in afghani and no default currency, since before the database refused that.
    inject: async (world) => {
      const tenantId = await world.tenant()
      await world.service.transaction(async (tx) => {
        await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
        await tx.query(
          `insert into billing.price_list (tenant_id, name, currency, effective)
           values ($1, 'first', 'AFN', tstzrange(now() - interval '1 day', null))`,
          [tenantId],
        )
      })
      await world.owner.transaction(async (tx) => {
        await tx.query('alter table tabib.tenant drop constraint live_has_currency')
        await tx.query('update tabib.tenant set currency = null where id = $1', [tenantId])
        await tx.query(
          `alter table tabib.tenant add constraint live_has_currency
             check (status <> 'live' or (currency is not null and currency <> '')) not valid`,
        )
      })
      return { async [Symbol.asyncDispose]() {} }
    },
    verify: async (world) => {
      const wrong = await world.db.query<{ slug: string; currency: string | null }>(
        `select slug, currency from tabib.tenant where currency is distinct from 'AFN'`,
      )
      return wrong.map(({ slug, currency }) => `${slug} charges in ${currency ?? 'nothing'}, not in AFN`)
    },
  },
})
