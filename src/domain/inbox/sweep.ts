import type { Nats, StoredMessage } from '../../adapters/nats/client.ts'
import type { Database } from '../../adapters/postgres/client.ts'
import { schemaOf } from '../../service.ts'
import { CONSUMERS, type ConsumerSpec, DELIVERY_POLICY, durableOf } from './consumers.ts'
import { parseEvent } from './event.ts'
import { fingerprintOf } from './failure.ts'
import { closeSettledIncidents } from './incidents.ts'
import { eventIdOf, publishDeadLetters, rejectMessage } from './quarantine.ts'

export interface Sweep {
  /** Messages looked at. */
  checked: number
  /** Found in neither inbox nor quarantine, and quarantined now. */
  quarantined: number
  /** Dead letters published now that a crash had kept back. */
  deadLetters: number
  /** The pass ended before the stream did. */
  more: boolean
}

const MESSAGES_PER_PASS = 50_000
const CHUNK = 500

/** Sweeps every consumer given once (see `sweepConsumer`), and closes incidents that are over. */
export async function sweepConsumers(
  { db, nats }: { db: Database; nats: Nats },
  consumers: readonly ConsumerSpec[] = CONSUMERS,
): Promise<Sweep> {
  const total: Sweep = { checked: 0, quarantined: 0, deadLetters: 0, more: false }
  for (const consumer of consumers) {
    const swept = await sweepConsumer({ db, nats }, consumer)
    total.checked += swept.checked
    total.quarantined += swept.quarantined
    total.deadLetters += swept.deadLetters
    total.more ||= swept.more
  }
  await closeSettledIncidents(
    { db },
    { by: 'inbox-sweep', resolution: 'no such event is in quarantine any more' },
  )
  return total
}

/**
 * Finds events that the server gave up on and nobody decided about, because the consumer's process died on each
 * delivery and the server's advisory was missed. Compares what the server holds for settled with inbox and quarantine,
 * from where the last sweep ended; reads headers alone. Also completes dead letters. Several may run at once.
 */
export async function sweepConsumer(
  { db, nats }: { db: Database; nats: Nats },
  consumer: ConsumerSpec,
): Promise<Sweep> {
  const found = await compareStream({ db, nats }, consumer)
  return { ...found, deadLetters: await publishDeadLetters({ db, nats }, consumer) }
}

async function compareStream(
  { db, nats }: { db: Database; nats: Nats },
  consumer: ConsumerSpec,
): Promise<Omit<Sweep, 'deadLetters'>> {
  const sweep = { checked: 0, quarantined: 0, more: false }
  const info = await nats.consumerInfo(consumer.stream, durableOf(consumer))
  if (!info) return sweep
  // The floor stands still below an event that the server gave up on, until nothing is in flight: then all that was
  // delivered is settled.
  const settledSeq =
    info.num_ack_pending === 0
      ? Math.max(info.delivered.stream_seq, info.ack_floor.stream_seq)
      : info.ack_floor.stream_seq
  const from = await sweptTo({ db }, consumer)
  // A stream that ends before our mark was made anew.
  const start = from > info.delivered.stream_seq ? 0 : from
  if (start >= settledSeq) return sweep

  let chunk: StoredMessage[] = []
  let reached = start
  const check = async () => {
    for (const message of await undecided({ db }, consumer, chunk)) {
      if (await settleExhausted({ db, nats }, consumer, message.seq)) sweep.quarantined += 1
    }
    chunk = []
    await markSwept({ db }, consumer, reached)
  }
  for await (const message of nats.messages(consumer.stream, start + 1)) {
    if (message.seq > settledSeq) break
    reached = message.seq
    if (message.subject === consumer.subject) chunk.push(message)
    sweep.checked += 1
    if (chunk.length === CHUNK) await check()
    sweep.more = sweep.checked === MESSAGES_PER_PASS
    if (sweep.more) break
  }
  if (!sweep.more) reached = settledSeq
  await check()
  return sweep
}

/**
 * Decides about one message whose deliveries are used up: quarantines it unless it was handled or quarantined already.
 * @returns whether it was quarantined now.
 */
export async function settleExhausted(
  { db, nats }: { db: Database; nats: Nats },
  consumer: ConsumerSpec,
  seq: number,
): Promise<boolean> {
  const message = await nats.message(consumer.stream, seq)
  if (!message) return false
  const parsed = parseEvent(message.payload)
  const eventId = eventIdOf(consumer, message, parsed)
  if (await isDecided({ db }, consumer, message, eventId)) return false
  const { maxDeliver } = consumer.policy ?? DELIVERY_POLICY
  const type = parsed.kind === 'event' ? parsed.event.type : (parsed.seen.type ?? 'unknown')
  await rejectMessage({ db, nats }, consumer, message, parsed, {
    reason: 'deliveries-exhausted',
    detail: `delivered ${maxDeliver} times without a decision: the consumer died on it, or Postgres was away`,
    attempts: maxDeliver,
    fingerprint: fingerprintOf(consumer.name, 'deliveries-exhausted', type),
  })
  return true
}

/**
 * Hears the server's advisories that a message of the consumer has used up its deliveries, and decides about it. They
 * come by core NATS, hence can be missed: `sweepConsumer` finds what this did not hear. Dispose to stop listening.
 */
export async function listenForExhausted(
  { db, nats }: { db: Database; nats: Nats },
  consumer: ConsumerSpec,
): Promise<AsyncDisposable> {
  const subject = `$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.${consumer.stream}.${durableOf(consumer)}`
  const working = new Set<Promise<unknown>>()
  const listening = await nats.listen(subject, (_subject, payload) => {
    const seq = exhaustedSeq(payload)
    if (seq === undefined) return
    // Whatever fails here is left to the sweep.
    const work: Promise<unknown> = settleExhausted({ db, nats }, consumer, seq)
      .catch(() => {})
      .finally(() => working.delete(work))
    working.add(work)
  })
  return {
    async [Symbol.asyncDispose]() {
      await listening[Symbol.asyncDispose]()
      await Promise.all(working)
    },
  }
}

function exhaustedSeq(payload: Uint8Array): number | undefined {
  try {
    const { stream_seq: seq } = JSON.parse(new TextDecoder().decode(payload)) as { stream_seq?: unknown }
    return typeof seq === 'number' ? seq : undefined
  } catch {
    return undefined
  }
}

// Only the message id is known here; one that matches nothing is looked at whole before anything is done about it.
async function undecided(
  { db }: { db: Database },
  consumer: ConsumerSpec,
  messages: StoredMessage[],
): Promise<StoredMessage[]> {
  if (messages.length === 0) return []
  const ids = messages.map(({ headers }) => headers.get('Nats-Msg-Id') ?? '')
  const known = await db.query<{ id: string }>(
    `select event_id as id from ${schemaOf(consumer.service)}.inbox where consumer = $1 and event_id = any($2)`,
    [consumer.name, ids],
  )
  const handled = new Set(known.map(({ id }) => id))
  return messages.filter((_, i) => !handled.has(ids[i]!))
}

async function isDecided(
  { db }: { db: Database },
  { service, name, stream }: ConsumerSpec,
  message: StoredMessage,
  eventId: string,
): Promise<boolean> {
  const redrive = message.headers.get('tabib-redrive') ?? ''
  const nth = Number(message.headers.get('Nats-Msg-Id')?.split(':').at(-1))
  // An event that was sent again is undecided while its entry waits for this very sending; sendings before it were
  // decided when the entry was opened again.
  const [row] = await db.query<{ decided: boolean }>(
    `select exists (select from ${schemaOf(service)}.inbox where consumer = $2 and event_id = $3)
         or exists (
           select from tabib.quarantine
           where service = $1 and origin = 'inbox' and consumer = $2
             and (event_id = $3 or (stream = $4 and stream_seq = $5))
             and not (state = 'redriving' and id::text = $6 and redrives = $7)) as decided`,
    [service, name, eventId, stream, message.seq, redrive, Number.isSafeInteger(nth) ? nth : -1],
  )
  return row?.decided ?? false
}

async function sweptTo(
  { db }: { db: Database },
  { service, name }: Pick<ConsumerSpec, 'service' | 'name'>,
): Promise<number> {
  const [row] = await db.query<{ seq: bigint }>(
    'select stream_seq as seq from tabib.inbox_sweep where service = $1 and consumer = $2',
    [service, name],
  )
  return Number(row?.seq ?? 0)
}

async function markSwept(
  { db }: { db: Database },
  { service, name }: Pick<ConsumerSpec, 'service' | 'name'>,
  seq: number,
): Promise<void> {
  await db.query(
    `insert into tabib.inbox_sweep (service, consumer, stream_seq) values ($1, $2, $3)
     on conflict (service, consumer) do update set stream_seq = excluded.stream_seq, at = now()`,
    [service, name, seq],
  )
}
