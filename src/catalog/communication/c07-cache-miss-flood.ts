import { randomUUID } from 'node:crypto'
import { cacheMissRatio } from '../../domain/idempotency/warm.ts'
import { failureMode } from '../failure-mode.ts'

const PAYMENTS = 30

export default failureMode({
  id: 'communication/C07',
  kind: 'alert',
  title: 'Redis lost its cache and idempotency falls back to the database',
  severity: 'ticket',
  detect: {
    metric: 'communication_idempotency_cache_miss_ratio',
    measure: async (app) => {
      if (app.config.redisCacheUrl === undefined)
        return { value: undefined, evidence: { redis: 'not configured' } }
      const { ratio, ...evidence } = await cacheMissRatio(app)
      return { value: ratio, evidence }
    },
    // The specification's hit ratio below 90 %, said so that an idle platform, which has neither, is no alarm.
    fires: { above: 0.1 },
    says: (ratio) =>
      `the cache holds ${Math.floor((1 - ratio) * 100)} % of the newest answers that may be asked for again`,
    entails: [],
  },
  mitigate: { command: ['idempotency', 'warm'] },
  drill: {
    // Redis is flushed, and clients that had no answer ask again: each must be told of the first payment.
    inject: async (world) => {
      const [visit, api] = [await world.visit(), await world.startApi()]
      const accountId = await api.owe(visit)
      const payments = Array.from({ length: PAYMENTS }, () => ({
        key: randomUUID(),
        body: { accountId, amountMinor: 100, currency: 'AFN', method: 'cash', reference: randomUUID() },
      }))
      const pay = (of: typeof payments) =>
        Promise.all(of.map(({ key, body }) => api.write(visit, 'payments', key, body)))
      const first = await pay(payments)
      await world.redis.flush()
      await pay(payments.slice(0, 5))
      const told = async () => (await pay(payments)).map(({ text }, n) => text === first[n]!.text)
      return Object.assign(api, { told })
    },
    verify: async (world, fault) => {
      const told = await (fault as AsyncDisposable & { told(): Promise<boolean[]> }).told()
      const [made] = await world.db.query<{ n: number }>(
        'select count(tenant_id)::int as n from billing.payment',
      )
      const wrong = told.filter((same) => !same).length
      return [
        ...(wrong > 0 ? [`${wrong} payments were answered differently the second time`] : []),
        ...(made?.n === PAYMENTS ? [] : [`${made?.n} payments were made for ${PAYMENTS} keys`]),
      ]
    },
  },
})
