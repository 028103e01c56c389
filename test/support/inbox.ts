import { randomUUID } from 'node:crypto'
import { beforeAll } from 'vitest'
import type { Nats } from '../../src/adapters/nats/client.ts'
import type { Database, Transaction } from '../../src/adapters/postgres/client.ts'
import type { ConsumerSpec } from '../../src/domain/inbox/consumers.ts'
import { writeTenant } from '../../src/domain/tenants/apply.ts'
import type { NatsServer } from '../../src/sandbox/servers/nats.ts'
import { completeTenant } from '../../src/sandbox/tenants.ts'
import { useDatabase } from './database.ts'
import { useNats } from './nats.ts'

/** Redelivery without the pauses that production needs. */
export const QUICK = { maxDeliver: 5, ackWaitMs: 500, backoffMs: [1] }

export interface InboxWorld {
  readonly db: Database
  readonly owner: Database
  readonly nats: Nats
  readonly databaseUrl: string
  readonly natsUrl: string
  readonly natsServer: NatsServer
  readonly tenantId: string
  /** A consumer of a subject of its own, so that tests do not meet each other's events. */
  consumer(handler: ConsumerSpec['handler']): ConsumerSpec
  /** Publishes events as the relay would; returns their ids. */
  publish(consumer: ConsumerSpec, events: PublishedEvent[]): Promise<string[]>
  /** Publishes bytes as some foreign program would. */
  publishRaw(consumer: ConsumerSpec, payload: Uint8Array | string): Promise<void>
}

export interface PublishedEvent {
  id?: string
  aggregateId?: string
  sequence?: number
  data?: Record<string, unknown>
  /** When the same event is published again. */
  messageId?: string
}

/** A database and a NATS of the test file's own with the streams of virtual care and billing, and one tenant. */
export function useInbox(): InboxWorld {
  const database = useDatabase()
  const nats = useNats()
  const tenantId = randomUUID()
  beforeAll(async () => {
    for (const kind of ['evt', 'dlq']) {
      for (const service of ['virtual-care', 'billing']) {
        await nats.client.ensureStream({ name: `${service}-${kind}`, subjects: [`${service}.${kind}.>`] })
      }
    }
    const names = { slug: 'herat-markaz', name: 'Herat', region: 'af-herat', currency: 'AFN' }
    await database.db.transaction((tx) => writeTenant(tx, tenantId, completeTenant(names)))
  })
  let consumers = 0
  let published = 0
  return {
    get db() {
      return database.db
    },
    get owner() {
      return database.owner
    },
    get nats() {
      return nats.client
    },
    get databaseUrl() {
      return database.url('tabib')
    },
    get natsServer() {
      return nats.server
    },
    get natsUrl() {
      return nats.server.url
    },
    tenantId,
    consumer(handler) {
      consumers += 1
      const name = `consumer-${consumers}`
      return {
        service: 'billing',
        name,
        stream: 'virtual-care-evt',
        subject: `virtual-care.evt.session.ended-${consumers}`,
        handler,
        policy: QUICK,
      }
    },
    async publish(consumer, events) {
      const ids: string[] = []
      for (const { id = randomUUID(), aggregateId, sequence, data, messageId = id } of events) {
        const sessionId = aggregateId ?? randomUUID()
        published += 1
        const payload = JSON.stringify({
          specversion: '1.0',
          id,
          source: '/virtual-care',
          type: consumer.subject.replace('.evt.', '.'),
          subject: `session/${sessionId}`,
          time: '2026-11-22T05:00:00Z',
          datacontenttype: 'application/json',
          tenantid: tenantId,
          sequence: String(sequence ?? published),
          data: data ?? { sessionId, patientId: randomUUID() },
        })
        const headers = new Map([['tenant_id', tenantId]])
        await nats.client.store({
          subject: consumer.subject,
          messageId,
          headers,
          payload: Buffer.from(payload),
        })
        ids.push(id)
      }
      return ids
    },
    async publishRaw(consumer, payload) {
      await nats.client.store({
        subject: consumer.subject,
        messageId: randomUUID(),
        headers: new Map(),
        payload: Buffer.from(payload),
      })
    },
  }
}

/** A handler's effect that an operator could count: one charge an event. */
export async function charge(tx: Transaction, event: { id: string; tenantId: string }): Promise<void> {
  await tx.query(
    `insert into billing.charge (tenant_id, patient_id, event_id, amount_minor, currency, code)
     values ($1, gen_random_uuid(), $2, 100, 'AFN', 'REG')`,
    [event.tenantId, event.id],
  )
}
