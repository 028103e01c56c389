import { setTimeout as delay } from 'node:timers/promises'
import type { JsMsg, Nats } from '../../adapters/nats/client.ts'
import { type Database, isDatabaseAway } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { type ConsumerSpec, DELIVERY_POLICY, durableOf } from './consumers.ts'
import { type ParsedEvent, parseEvent } from './event.ts'
import { describeFailure, fingerprintOf } from './failure.ts'
import { handleEvent } from './handle.ts'
import { type DeliveredMessage, rejectMessage } from './quarantine.ts'
import { listenForExhausted } from './sweep.ts'

export interface ConsumerPass {
  handled: number
  duplicates: number
  /** Of those handled: after a later event of their aggregate. */
  late: number
  /** Failed, to be delivered again. */
  retried: number
  quarantined: number
  /** Events that came on a second or later delivery. */
  redelivered: number
}

export interface PassOptions {
  /** At most this many events. */
  limit: number
  /** How long to wait for them in all; the server wants a second at least. */
  expiresMs: number
  /** Aborted: what is under way is finished, what is not is given back. */
  signal?: AbortSignal | undefined
}

// Two consumers share a pool of 8 connections with their sweeps and advisories.
const CONCURRENCY = 3
const LARGEST_BATCH = 32
const SILENCE_MS = 2_000

/** Makes the consumer's durable in its stream, or brings its settings up to date. */
export async function ensureConsumer({ nats }: { nats: Nats }, consumer: ConsumerSpec): Promise<void> {
  if (!(await nats.stream(consumer.stream))) {
    throw new TabibError('MIGRATION_REQUIRED', `there is no stream ${consumer.stream}`, {
      suggestions: ['tabib migrate up'],
    })
  }
  const { maxDeliver, ackWaitMs } = consumer.policy ?? DELIVERY_POLICY
  await nats.ensureConsumer(consumer.stream, {
    durable_name: durableOf(consumer),
    filter_subject: consumer.subject,
    ack_policy: 'explicit',
    deliver_policy: 'all',
    ack_wait: ackWaitMs * 1_000_000,
    max_deliver: maxDeliver,
    max_ack_pending: 256,
  })
}

/**
 * Takes what the stream has for the consumer, up to `limit`, and settles each event: handled and acknowledged, put off
 * to a later delivery, or rejected after the last. Events of one aggregate are handled one after another.
 *
 * @throws TabibError POSTGRES_UNREACHABLE, NATS_UNREACHABLE; what was not settled is delivered again.
 */
export async function consumePass(
  { db, nats }: { db: Database; nats: Nats },
  consumer: ConsumerSpec,
  { limit, expiresMs, signal }: PassOptions,
): Promise<ConsumerPass> {
  const pass: ConsumerPass = {
    handled: 0,
    duplicates: 0,
    late: 0,
    retried: 0,
    quarantined: 0,
    redelivered: 0,
  }
  const messages = await fetchMessages({ nats }, consumer, { limit, expiresMs })
  const stop = () => void messages.close()
  // The server ends a fetch by a message of its own, which never comes once the connection is lost.
  const listenOn = () => setTimeout(stop, expiresMs + SILENCE_MS)
  let silence = listenOn()
  signal?.addEventListener('abort', stop, { once: true })
  const lanes = new Map<string, Promise<void>>()
  const running = new Set<Promise<void>>()
  const outages: unknown[] = []
  try {
    for await (const message of messages) {
      clearTimeout(silence)
      if (signal?.aborted || outages.length > 0) {
        message.nak()
        silence = listenOn()
        continue
      }
      const parsed = parseEvent(message.data)
      const lane = laneOf(message, parsed)
      const work = (lanes.get(lane) ?? Promise.resolve())
        .then(() => settle({ db, nats }, consumer, message, parsed, pass))
        .catch((error) => {
          outages.push(error)
        })
      lanes.set(lane, work)
      running.add(work)
      void work.then(() => running.delete(work))
      if (running.size >= CONCURRENCY) await Promise.race(running)
      silence = listenOn()
    }
    await Promise.all(running)
  } catch (error) {
    // What fails in the body is collected; this is the wire.
    throw cannotRead(consumer, error)
  } finally {
    clearTimeout(silence)
    signal?.removeEventListener('abort', stop)
  }
  if (outages.length > 0) throw outages[0]
  return pass
}

/**
 * Consumes until aborted. An outage of Postgres or NATS is waited out with back-off; `onPass` hears of every pass,
 * `onOutage` of every attempt that failed.
 *
 * A batch is one event after the start and after every redelivery, and doubles while all goes well: an event that kills
 * the process then dies alone, and does not use up the deliveries of those behind it.
 *
 * @throws TabibError MIGRATION_REQUIRED; whatever else is no outage.
 */
export async function runConsumer(
  { db, nats }: { db: Database; nats: Nats },
  consumer: ConsumerSpec,
  {
    signal,
    onPass = () => {},
    onOutage = () => {},
    expiresMs = 5_000,
  }: {
    signal: AbortSignal
    onPass?: (pass: ConsumerPass) => void
    onOutage?: (error: unknown) => void
    expiresMs?: number
  },
): Promise<void> {
  let ready: AsyncDisposable | undefined
  let limit = 1
  let failures = 0
  try {
    while (!signal.aborted) {
      try {
        if (!ready) {
          // Asked first: without Postgres every delivery would be one wasted.
          await db.query('select 1')
          await ensureConsumer({ nats }, consumer)
          ready = await listenForExhausted({ db, nats }, consumer)
        }
        const pass = await consumePass({ db, nats }, consumer, { limit, expiresMs, signal })
        limit = nextBatch(limit, pass)
        failures = 0
        onPass(pass)
      } catch (error) {
        if (!isOutage(error)) throw error
        onOutage(error)
        await ready?.[Symbol.asyncDispose]()
        ready = undefined
        limit = 1
        failures += 1
        await pause(Math.min(30_000, 250 * 2 ** Math.min(failures, 7)), signal)
      }
    }
  } finally {
    await ready?.[Symbol.asyncDispose]()
  }
}

/**
 * Consumes what there is and returns when a pass brings nothing: what a scheduled run does. Events put off to a later
 * delivery are left to the next run.
 */
export async function drainConsumer(
  { db, nats }: { db: Database; nats: Nats },
  consumer: ConsumerSpec,
  { signal }: { signal?: AbortSignal } = {},
): Promise<ConsumerPass> {
  await ensureConsumer({ nats }, consumer)
  await using _exhausted = await listenForExhausted({ db, nats }, consumer)
  const total = await consumePass({ db, nats }, consumer, { limit: 1, expiresMs: 1_000, signal })
  let last = total
  for (let limit = 1; settled(last) > 0 && !signal?.aborted; ) {
    limit = nextBatch(limit, last)
    last = await consumePass({ db, nats }, consumer, { limit, expiresMs: 1_000, signal })
    for (const key of Object.keys(total) as (keyof ConsumerPass)[]) total[key] += last[key]
  }
  return total
}

async function fetchMessages(
  { nats }: { nats: Nats },
  consumer: ConsumerSpec,
  { limit, expiresMs }: Pick<PassOptions, 'limit' | 'expiresMs'>,
) {
  try {
    const pull = await nats.consumer(consumer.stream, durableOf(consumer))
    return await pull.fetch({ max_messages: limit, expires: expiresMs })
  } catch (error) {
    throw cannotRead(consumer, error)
  }
}

// A durable that somebody deleted counts as away too: it is made again with the next start.
function cannotRead({ stream, name }: ConsumerSpec, error: unknown): TabibError {
  if (error instanceof TabibError) return error
  const why = error instanceof Error ? error.message : String(error)
  return new TabibError('NATS_UNREACHABLE', `${name} cannot read ${stream}: ${why}`, {
    cause: error,
    suggestions: ['tabib migrate status'],
  })
}

const settled = ({ handled, duplicates, quarantined }: ConsumerPass): number =>
  handled + duplicates + quarantined

const nextBatch = (limit: number, pass: ConsumerPass): number =>
  pass.redelivered + pass.retried > 0 ? 1 : Math.min(LARGEST_BATCH, limit * 2)

async function settle(
  { db, nats }: { db: Database; nats: Nats },
  consumer: ConsumerSpec,
  message: JsMsg,
  parsed: ParsedEvent,
  pass: ConsumerPass,
): Promise<void> {
  const { maxDeliver, ackWaitMs, backoffMs } = consumer.policy ?? DELIVERY_POLICY
  const attempts = message.info.deliveryCount
  if (attempts > 1) pass.redelivered += 1
  const alive = setInterval(() => message.working(), ackWaitMs / 3)
  const putOff = () => message.nak(backoffMs[Math.min(attempts, backoffMs.length) - 1])
  try {
    if (parsed.kind === 'flaw') {
      const { flaw, detail } = parsed
      const fingerprint = fingerprintOf(consumer.name, flaw, message.subject)
      await rejectMessage({ db, nats }, consumer, deliveredMessage(message), parsed, {
        reason: flaw,
        detail,
        attempts,
        fingerprint,
      })
      message.term()
      pass.quarantined += 1
      return
    }
    const { service, name, handler } = consumer
    const failure = await handleEvent({ db }, { service, consumer: name, event: parsed.event, handler }).then(
      (handled) => {
        message.ack()
        pass[handled.kind === 'handled' ? 'handled' : 'duplicates'] += 1
        if (handled.late) pass.late += 1
        return undefined
      },
      async (error: unknown) => {
        if (isOutage(error)) throw error
        // What was not counted must not keep the event from its next delivery.
        await consumer.onFailure?.(db, error).catch(() => {})
        return describeFailure(name, error)
      },
    )
    if (failure === undefined) return
    if (attempts < maxDeliver) {
      putOff()
      pass.retried += 1
      return
    }
    await rejectMessage({ db, nats }, consumer, deliveredMessage(message), parsed, {
      reason: 'handler-failed',
      attempts,
      ...failure,
    })
    message.term()
    pass.quarantined += 1
  } catch (error) {
    putOff()
    throw error
  } finally {
    clearInterval(alive)
  }
}

function deliveredMessage(message: JsMsg): DeliveredMessage {
  const headers = new Map<string, string>()
  for (const [name, values] of message.headers ?? []) headers.set(name, values[0] ?? '')
  return { seq: message.seq, subject: message.subject, headers, payload: message.data }
}

function laneOf(message: JsMsg, parsed: ParsedEvent): string {
  if (parsed.kind === 'flaw' || parsed.event.aggregateId === null) return `seq ${message.seq}`
  return `${parsed.event.aggregateType} ${parsed.event.aggregateId}`
}

/** Nothing wrong with the event: Postgres or NATS is away. */
const isOutage = (error: unknown): boolean =>
  isDatabaseAway(error) || (error instanceof TabibError && error.code === 'NATS_UNREACHABLE')

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  // Jitter, so that consumers that lost the same server do not come back in step.
  await delay(ms * (0.75 + Math.random() / 2), undefined, { signal }).catch(() => {})
}
