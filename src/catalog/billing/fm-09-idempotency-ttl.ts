import { randomUUID } from 'node:crypto'
import { lostKeys, unguardedKeys } from '../../domain/payments/lost-keys.ts'
import { repeatedPayments } from '../../domain/payments/repeated.ts'
import { failureMode } from '../failure-mode.ts'

const PAYMENTS = 3

export default failureMode({
  id: 'billing/FM-09',
  kind: 'alert',
  title: 'Idempotency keys expire too early and a retry is posted twice',
  severity: 'page',
  detect: {
    metric: 'billing_idempotency_breaches',
    measure: async (app) => {
      const [unguarded, { lost, youngestS }, { sameKey, equal, accounts }] = await Promise.all([
        unguardedKeys(app),
        lostKeys(app),
        repeatedPayments(app),
      ])
      const evidence = {
        unguarded,
        keysGoneBefore24H: lost,
        goneAfterS: youngestS,
        sameKey,
        equalPayments: equal,
        accounts,
      }
      return { value: unguarded.length + lost + sameKey + equal, evidence }
    },
    fires: { above: 0 },
    says: (count) =>
      count > 0
        ? `keys may go before 24 hours, have gone, or accounts were paid the same twice: ${count} in all`
        : 'every payment and charge of the last 24 hours has its key, and none repeats another',
    entails: ['sync/5'],
  },
  mitigate: { command: ['idempotency', 'restore'] },
  drill: {
    // A clean-up with a lifetime of its own deletes keys that are minutes old; then a client that had no answer asks again.
    inject: async (world) => {
      const [visit, api] = [await world.visit(), await world.startApi()]
      const accountId = await api.owe(visit)
      const payments = Array.from({ length: PAYMENTS }, () => ({
        key: randomUUID(),
        body: { accountId, amountMinor: 100, currency: 'AFN', method: 'cash', reference: randomUUID() },
      }))
      const pay = () => Promise.all(payments.map(({ key, body }) => api.write(visit, 'payments', key, body)))
      const first = await pay()
      await world.owner.query(
        `begin;
         alter table billing.idempotency_key disable row level security;
         delete from billing.idempotency_key;
         alter table billing.idempotency_key enable row level security;
         commit`,
      )
      await world.redis.flush()
      await api.write(visit, 'payments', payments[0]!.key, payments[0]!.body)
      const changed = async () => (await pay()).filter(({ text }, n) => text !== first[n]!.text).length
      return Object.assign(api, { changed })
    },
    verify: async (world, fault) => {
      const changed = await (fault as AsyncDisposable & { changed(): Promise<number> }).changed()
      const [made] = await world.db.query<{ payments: number; posted: number }>(
        `select (select count(tenant_id) from billing.payment)::int as payments,
           (select count(*) from billing.journal_transaction where kind = 'payment')::int as posted`,
      )
      return [
        ...(changed > 0 ? [`${changed} retries were answered differently`] : []),
        ...(made?.payments === PAYMENTS ? [] : [`${made?.payments} payments for ${PAYMENTS} keys`]),
        ...(made?.posted === PAYMENTS ? [] : [`${made?.posted} payments posted for ${PAYMENTS} keys`]),
      ]
    },
  },
})
