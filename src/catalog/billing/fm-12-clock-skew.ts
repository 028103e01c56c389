import { randomUUID } from 'node:crypto'
import { podClocks, SKEW_LIMIT_S, skewOf } from '../../domain/cluster/clocks.ts'
import { compareWithStream } from '../../domain/outbox/compare.ts'
import { failureMode } from '../failure-mode.ts'

const PAYMENTS = 6

export default failureMode({
  id: 'billing/FM-12',
  kind: 'alert',
  title: "The clocks of billing's pods are more than 500 ms apart",
  severity: 'ticket',
  detect: {
    metric: 'billing_clock_skew_seconds',
    measure: async (app) => {
      const { seconds, off, unmeasured } = skewOf(await podClocks(app))
      return { value: seconds, evidence: { off, ...(unmeasured.length > 0 && { unmeasured }) } }
    },
    fires: { above: SKEW_LIMIT_S, unit: 's' },
    says: (seconds) =>
      `the clocks of Postgres and of tabib's hosts are ${Math.round(seconds * 1_000)} ms apart`,
    for: '30s',
    entails: ['communication/C16'],
  },
  mitigate: { command: ['cluster', 'clocks', '--step', '--yes'] },
  drill: {
    needs: { clock: true },
    // Payments are taken on both sides of a step of Postgres's clock, by which keys expire and events are dated.
    inject: async (world) => {
      await world.configure({ clocks: { step: world.postgres.clock!.step } })
      const relay = await world.startWorkers(['outbox-relay'])
      const [visit, api] = [await world.visit(), await world.startApi()]
      const accountId = await api.owe(visit)
      const payments = Array.from({ length: PAYMENTS }, () => ({
        key: randomUUID(),
        body: { accountId, amountMinor: 100, currency: 'AFN', method: 'cash', reference: randomUUID() },
      }))
      const answers = new Map<string, string>()
      const pay = async (some: typeof payments) => {
        for (const { key, body } of some) {
          const { text } = await api.write(visit, 'payments', key, body)
          if ((answers.get(key) ?? text) !== text) answers.set(key, 'answered differently the second time')
          else answers.set(key, text)
        }
      }
      await pay(payments.slice(0, 2))
      await world.postgres.clock!.shift(2)
      await pay(payments.slice(0, 4))
      return {
        again: async () => {
          await pay(payments)
          return [...answers.values()].filter((text) => text.startsWith('answered'))
        },
        async [Symbol.asyncDispose]() {
          await world.postgres.clock!.shift(0)
          await Promise.all([api[Symbol.asyncDispose](), relay[Symbol.asyncDispose]()])
        },
      }
    },
    verify: async (world, fault) => {
      const changed = await (fault as AsyncDisposable & { again(): Promise<string[]> }).again()
      const [made] = await world.db.query<{ payments: number; keys: number }>(
        `select (select count(tenant_id) from billing.payment)::int as payments,
           (select count(distinct key) from billing.idempotency_key)::int as keys`,
      )
      return [
        ...changed,
        ...(made?.payments === PAYMENTS ? [] : [`${made?.payments} payments for ${PAYMENTS} keys`]),
        ...(made!.keys > PAYMENTS
          ? []
          : [`${made?.keys} keys are kept of ${PAYMENTS} payments and a charge`]),
        ...(await compareWithStream(world.app, { service: 'billing' })),
      ]
    },
  },
})
