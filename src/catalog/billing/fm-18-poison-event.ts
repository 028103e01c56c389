import { randomUUID } from 'node:crypto'
import type { App } from '../../app.ts'
import { openQuarantine } from '../../domain/dlq/count.ts'
import { consumePass, ensureConsumer } from '../../domain/inbox/consume.ts'
import { CONSUMERS } from '../../domain/inbox/consumers.ts'
import { consumerLag } from '../../domain/inbox/lag.ts'
import { failureMode } from '../failure-mode.ts'

export default failureMode({
  id: 'billing/FM-18',
  kind: 'alert',
  title: 'A poison event could not be consumed and is in quarantine',
  severity: 'page',
  detect: {
    metric: 'billing_dlq_open',
    measure: async (app) => ({
      value: await openQuarantine(app, { service: 'billing', origin: 'inbox' }),
      evidence: await lagOfConsumers(app),
    }),
    fires: { above: 0 },
    says: (open) =>
      open > 0
        ? `${open} events that billing could not consume are in quarantine`
        : 'nothing is in quarantine',
    entails: [],
  },
  mitigate: { worker: 'inbox', command: ['dlq', 'redrive', '--service', 'billing', '--yes', '--wait'] },
  drill: {
    // A session of a tenant that billing does not know yet: it cannot be charged, however often it is delivered.
    inject: async (world) => {
      await world.service.transaction(async (tx) => {
        const tenantId = randomUUID()
        await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
        await tx.query(
          `insert into virtual_care.outbox (tenant_id, aggregate_type, aggregate_id, type, data)
           values ($1, 'session', $2, 'ended', $3)`,
          [tenantId, randomUUID(), JSON.stringify({ sessionId: randomUUID(), patientId: randomUUID() })],
        )
      })
      await world.tabib(['outbox', 'relay', '--service', 'virtual-care'])
      const policy = { maxDeliver: 5, ackWaitMs: 30_000, backoffMs: [50] }
      const consumer = { ...CONSUMERS.find(({ name }) => name === 'charge-capture')!, policy }
      await ensureConsumer(world.app, consumer)
      for (let delivery = 1; delivery <= policy.maxDeliver; delivery++) {
        await consumePass(world.app, consumer, { limit: 1, expiresMs: 1_000 })
      }
      return { async [Symbol.asyncDispose]() {} }
    },
    // Somebody makes the tenant known.
    relent: async (world) => {
      const unknown = await world.db.query<{ tenant_id: string }>(
        `select distinct tenant_id from tabib.quarantine where service = 'billing' and origin = 'inbox'`,
      )
      for (const { tenant_id } of unknown) await world.tenant(tenant_id)
    },
    verify: async (world) => {
      const lost = await world.db.query<{ id: string }>(
        `select o.id from virtual_care.outbox o
         where o.aggregate_type = 'session' and o.type = 'ended'
           and not exists (select from billing.charge c where c.event_id = o.id::text)`,
      )
      return lost.map(({ id }) => `session event ${id} was never charged`)
    },
  },
})

/** Beside the quarantine: how far billing's consumers are behind. NATS may be away; then only that is unknown. */
async function lagOfConsumers(app: App): Promise<Record<string, unknown>> {
  const own = CONSUMERS.filter(({ service }) => service === 'billing')
  const lags = await Promise.all(
    own.map(async (consumer) => {
      const lag = await consumerLag(app, consumer).catch(() => undefined)
      return [`${consumer.name} lag`, lag?.lag ?? 'unknown'] as const
    }),
  )
  return Object.fromEntries(lags)
}
