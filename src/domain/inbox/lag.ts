import type { Nats } from '../../adapters/nats/client.ts'
import { type ConsumerSpec, durableOf } from './consumers.ts'

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
