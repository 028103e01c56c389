import { setTimeout as delay } from 'node:timers/promises'
import type { Nats } from '../../adapters/nats/client.ts'
import { TabibError } from '../../errors.ts'
import { CONSUMERS, type ConsumerSpec, durableOf } from './consumers.ts'

export interface ConsumerLag {
  /** Events not delivered yet and events that are on their second or later delivery: what `lag` adds up. */
  lag: number
  waiting: number
  redelivered: number
  /** Delivered and not yet decided. */
  inFlight: number
}

/** How far a consumer is behind its stream; undefined when it never ran, hence has no durable yet. */
export async function consumerLag(
  { nats }: { nats: Nats },
  consumer: ConsumerSpec,
): Promise<ConsumerLag | undefined> {
  const info = await nats.consumerInfo(consumer.stream, durableOf(consumer))
  if (!info) return undefined
  const { num_pending: waiting, num_redelivered: redelivered, num_ack_pending: inFlight } = info
  return { lag: waiting + redelivered, waiting, redelivered, inFlight }
}

const CONSUMED_LIMIT_MS = 20_000

/**
 * Resolves when a consumer has decided on everything its stream holds; for rehearsals.
 * @throws TabibError TIMED_OUT after 20 s.
 */
export async function allConsumed(app: { nats: Nats }, name: string): Promise<void> {
  const consumer = CONSUMERS.find((one) => one.name === name)
  if (!consumer) throw new TabibError('NOT_FOUND', `there is no consumer ${name}`)
  const deadline = performance.now() + CONSUMED_LIMIT_MS
  for (;;) {
    const lag = await consumerLag(app, consumer)
    if (lag && lag.lag + lag.inFlight === 0) return
    if (performance.now() > deadline) {
      throw new TabibError('TIMED_OUT', `${name} is behind by ${lag?.lag ?? 'all'} events after 20 s`)
    }
    await delay(50)
  }
}
