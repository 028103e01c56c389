import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { openDatabase } from '../../src/adapters/postgres/client.ts'
import type { World } from '../../src/sandbox/world.ts'
import { quantile } from '../measurement.ts'

export interface Latency {
  p50Ms: number
  p99Ms: number
  events: number
}

export interface LatencyOptions {
  stream: string
  ratePerS: number
  seconds: number
  /** The producers' role. */
  url: string
  /** Inserts one event: `$1` is its id, `$2` and what follows are `values` of its number. */
  sql: string
  values: (n: number) => unknown[]
}

const PRODUCERS = 16
const ARRIVAL_LIMIT_MS = 10_000

/**
 * Produces at a steady rate, one event a transaction, and takes for each the time from the producer's return from
 * commit to the arrival of the stored message at a consumer of the stream in this process, by this process's clock.
 */
export async function latencyAt(
  world: World,
  { stream, ratePerS, seconds, url, sql, values }: LatencyOptions,
): Promise<Latency> {
  // A producer that has no connection yet waits for one; its event counts from its commit.
  await using producers = openDatabase({ url, maxConnections: PRODUCERS, connectTimeoutMs: 120_000 })
  const committedAt = new Map<string, number>()
  const arrivedAt = new Map<string, number>()
  await world.app.nats.ensureConsumer(stream, {
    durable_name: 'latency',
    ack_policy: 'none',
    deliver_policy: 'new',
  })
  const consumer = await world.app.nats.consumer(stream, 'latency')
  const arrivals = await consumer.consume({
    max_messages: 10_000,
    callback: (message) => {
      arrivedAt.set(message.headers?.get('Nats-Msg-Id') ?? '', performance.now())
    },
  })
  const producing: Promise<void>[] = []
  const produce = async (n: number) => {
    const id = randomUUID()
    await producers.query(sql, [id, ...values(n)], 'produce')
    committedAt.set(id, performance.now())
  }
  // The first second warms connections, plans and code up and does not count.
  const total = Math.round(ratePerS * (seconds + 1))
  const startedAt = performance.now()
  while (producing.length < total) {
    const due = Math.min(total, ((performance.now() - startedAt) / 1_000) * ratePerS)
    while (producing.length < due) producing.push(produce(producing.length))
    await delay(1)
  }
  await Promise.all(producing)
  const deadline = performance.now() + ARRIVAL_LIMIT_MS
  while (arrivedAt.size < total && performance.now() < deadline) await delay(10)
  await arrivals.close()
  await consumer.delete()
  // What never arrived waited at least this long.
  const latencies = [...committedAt]
    .slice(ratePerS)
    .map(([id, at]) => Math.max(0, (arrivedAt.get(id) ?? performance.now()) - at))
  return { p50Ms: quantile(latencies, 0.5), p99Ms: quantile(latencies, 0.99), events: latencies.length }
}
