import type { Queryable, Transaction } from '../../adapters/postgres/client.ts'
import { eventStreamOf, type Service } from '../../service.ts'
import { captureCharge } from '../payments/capture-charge.ts'
import { countRefusal } from '../payments/refusals.ts'
import { scheduleSession } from '../sessions/schedule.ts'
import type { InboxEvent } from './event.ts'

/** Does what the event asks for, inside the transaction that records it in the inbox. Throwing undoes both. */
export type EventHandler = (tx: Transaction, event: InboxEvent & { late: boolean }) => Promise<void>

/** How often an event is tried, and how long apart. */
export interface DeliveryPolicy {
  maxDeliver: number
  /** A consumer that is silent for this long about a message is taken for dead. */
  ackWaitMs: number
  /** Pause before each further delivery of a failed event; the last is used for all that follow. */
  backoffMs: number[]
}

export const DELIVERY_POLICY: DeliveryPolicy = {
  maxDeliver: 5,
  ackWaitMs: 30_000,
  backoffMs: [500, 2_000, 5_000, 15_000],
}

/** A consumer of tabib's own: which events of which stream go to which handler. */
export interface ConsumerSpec {
  /** Whose inbox and dead letters it uses. */
  service: Service
  name: string
  stream: string
  subject: string
  handler: EventHandler
  /** Hears what the handler threw, when that has been undone. */
  onFailure?(db: Queryable, error: unknown): Promise<void>
  policy?: DeliveryPolicy
}

/** Name of a consumer's durable in its stream, where consumers of several services stand side by side. */
export const durableOf = ({ service, name }: Pick<ConsumerSpec, 'service' | 'name'>): string =>
  `${service}-${name}`

export const CONSUMERS: readonly ConsumerSpec[] = [
  {
    service: 'billing',
    name: 'charge-capture',
    stream: eventStreamOf('virtual-care'),
    subject: 'virtual-care.evt.session.ended',
    handler: captureCharge,
    onFailure: countRefusal,
  },
  {
    service: 'communication',
    name: 'session-scheduler',
    stream: eventStreamOf('virtual-care'),
    subject: 'virtual-care.evt.appointment.scheduled',
    handler: scheduleSession,
  },
]
