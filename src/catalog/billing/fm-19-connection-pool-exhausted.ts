import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { poolWait, WAIT_LIMIT_S } from '../../domain/cluster/pool-wait.ts'
import { failureMode } from '../failure-mode.ts'

const PAYMENTS = 20
const POOL_SIZE = 2

export default failureMode({
  id: 'billing/FM-19',
  kind: 'alert',
  title: "Billing's database connection pool is exhausted",
  severity: 'page',
  detect: {
    metric: 'billing_database_wait_seconds',
    measure: async (app) => {
      const { waitS, ...evidence } = await poolWait(app)
      return { value: waitS, evidence }
    },
    // The specification's p95 latency, of what the pool adds to it; requests that it turned away (503) count as 3 s.
    fires: { above: WAIT_LIMIT_S, unit: 's' },
    says: (waitS) =>
      waitS > 0
        ? `work waits up to ${waitS.toFixed(2)} s for a database connection`
        : 'nobody waits for a database connection',
    for: '30s',
    entails: [],
  },
  mitigate: {
    command: [
      ...['cluster', 'pool', '--terminate', 'idle', '--idle-for', '1s'],
      ...['--confirm', 'idle', '--reason', 'they hold the pool'],
    ],
  },
  drill: {
    // A program hangs in its transactions, which are all that the pool has; cashiers go on taking payments meanwhile.
    inject: async (world) => {
      const pooler = await world.pooler({ poolSize: POOL_SIZE })
      const url = world.env.TABIB_DATABASE_URL!
      const [visit, api] = [
        await world.visit(),
        await world.startApi({ env: { TABIB_DATABASE_URL: pooler.through(url) } }),
      ]
      const accountId = await api.owe(visit)
      const held = await pooler.hold(url, POOL_SIZE)
      const left = new Set<string>(Array.from({ length: PAYMENTS }, () => randomUUID()))
      let open = true
      const pay = async (key: string) => {
        const body = { accountId, amountMinor: 100, currency: 'AFN', method: 'cash', reference: key }
        while (open && left.has(key)) {
          const answer = await api.write(visit, 'payments', key, body).catch(() => undefined)
          if (answer?.status === 201) left.delete(key)
          else await delay(200)
        }
      }
      const paying = Promise.all([...left].map(pay))
      return {
        left,
        async [Symbol.asyncDispose]() {
          open = false
          await Promise.all([api[Symbol.asyncDispose](), held[Symbol.asyncDispose]()])
          await paying
        },
      }
    },
    verify: async (world, fault) => {
      const { left } = fault as AsyncDisposable & { left: Set<string> }
      const [made] = await world.db.query<{ n: number }>(
        'select count(tenant_id)::int as n from billing.payment',
      )
      return [
        ...(left.size > 0 ? [`${left.size} payments were never taken`] : []),
        ...(made?.n === PAYMENTS ? [] : [`${made?.n} payments were made for ${PAYMENTS} keys`]),
      ]
    },
  },
})
