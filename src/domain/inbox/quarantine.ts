import { createHash } from 'node:crypto'
import type { Nats, StoredMessage } from '../../adapters/nats/client.ts'
import type { Database, Transaction } from '../../adapters/postgres/client.ts'
import { deadLetterStreamOf, type Service } from '../../service.ts'
import { raiseIncident } from '../incident/raise.ts'
import type { ConsumerSpec } from './consumers.ts'
import type { EventFlaw, ParsedEvent } from './event.ts'
import { incidentKey } from './incidents.ts'
import { redact } from './redact.ts'

/** Why a consumer gave an event up. Stable words: they are stored, filtered on and documented. */
export type RejectReason = EventFlaw | 'handler-failed' | 'deliveries-exhausted'

export type DeliveredMessage = Pick<StoredMessage, 'seq' | 'subject' | 'headers' | 'payload'>

export interface Rejection {
  reason: RejectReason
  /** Without values of the event. */
  detail: string
  attempts: number
  fingerprint: string
}

/**
 * The id of a message in inbox and quarantine. One that is no event is known by its place and its bytes, whatever id it
 * claims: two such messages must not pass for one, and a stream that was made anew counts from one again. When sent
 * again it carries that first id.
 */
export function eventIdOf(consumer: ConsumerSpec, message: DeliveredMessage, parsed: ParsedEvent): string {
  if (parsed.kind === 'event') return parsed.event.id
  const digest = () => createHash('sha256').update(message.payload).digest('hex').slice(0, 16)
  return message.headers.get('tabib-event-id') ?? `${consumer.stream}:${message.seq}:${digest()}`
}

/**
 * Gives an event up: quarantined, people told once for all that fail alike, and a copy in the dead-letter stream, in
 * that order. Twice is the same as once; what is cut off in between is completed by `publishDeadLetters`.
 */
export async function rejectMessage(
  { db, nats }: { db: Database; nats: Nats },
  consumer: ConsumerSpec,
  message: DeliveredMessage,
  parsed: ParsedEvent,
  rejection: Rejection,
): Promise<void> {
  const id = await db.transaction(async (tx) => {
    const { id, changed } = await quarantine(tx, consumer, message, parsed, rejection)
    if (changed) await tellOps(tx, consumer, parsed, rejection)
    return id
  })
  const [letter] = await unpublishedLetters({ db }, consumer, id)
  // The quarantine has the event: a dead-letter stream that is full must not stop the consumer.
  if (letter) await publishLetter({ db, nats }, consumer, letter).catch(() => {})
}

/**
 * Publishes dead letters that are missing: their consumer died after the quarantine, or the stream took none. Looks into the stream first, since
 * one may have died after it and longer ago than the stream remembers message ids.
 * @returns how many were missing.
 */
export async function publishDeadLetters(
  { db, nats }: { db: Database; nats: Nats },
  consumer: ConsumerSpec,
): Promise<number> {
  const letters = await unpublishedLetters({ db }, consumer)
  if (letters.length === 0) return 0
  const stored = new Set<string>()
  for await (const { headers } of nats.messages(deadLetterStreamOf(consumer.service), 1)) {
    stored.add(headers.get('Nats-Msg-Id') ?? '')
  }
  const missing = letters.filter((letter) => !stored.has(letterId(letter)))
  for (const letter of letters) {
    if (missing.includes(letter)) await publishLetter({ db, nats }, consumer, letter)
    else await markPublished({ db }, letter)
  }
  return missing.length
}

async function quarantine(
  tx: Transaction,
  consumer: ConsumerSpec,
  message: DeliveredMessage,
  parsed: ParsedEvent,
  { reason, detail, attempts, fingerprint }: Rejection,
): Promise<{ id: string; changed: boolean }> {
  const seen = parsed.kind === 'event' ? parsed.event : parsed.seen
  const eventId = eventIdOf(consumer, message, parsed)
  const key = [consumer.service, consumer.name, eventId]
  // An entry that is open stays as it is; one that was sent again and failed again is open once more.
  const [changed] = await tx.query<{ id: string }>(
    `insert into tabib.quarantine as q (service, origin, consumer, event_id, stream, stream_seq, seq, tenant_id,
       aggregate_type, aggregate_id, type, subject, occurred_at, reason, detail, attempts, fingerprint, headers, payload,
       redacted)
     values ($1, 'inbox', $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
     on conflict (service, origin, consumer, event_id) where state in ('open', 'held', 'redriving') do update
       set state = 'open', stream_seq = excluded.stream_seq, reason = excluded.reason, detail = excluded.detail,
           attempts = q.attempts + excluded.attempts, fingerprint = excluded.fingerprint, dead_lettered_at = null,
           resolved_by = null
       where q.state = 'redriving'
     returning id`,
    [
      ...key,
      consumer.stream,
      message.seq,
      seen.aggSeq,
      seen.tenantId,
      seen.aggregateType,
      seen.aggregateId,
      seen.type,
      message.subject,
      seen.time,
      reason,
      detail,
      attempts,
      fingerprint,
      JSON.stringify(ownHeaders(message.headers)),
      message.payload,
      redactedOf(parsed),
    ],
  )
  if (changed) return { id: changed.id, changed: true }
  const [present] = await tx.query<{ id: string }>(
    `select id from tabib.quarantine where service = $1 and origin = 'inbox' and consumer = $2 and event_id = $3
       and state in ('open', 'held', 'redriving')`,
    key,
  )
  return { id: present!.id, changed: false }
}

function redactedOf(parsed: ParsedEvent): string | null {
  if (parsed.kind === 'flaw') return parsed.json === undefined ? null : JSON.stringify(redact(parsed.json))
  const { id, type, source, tenantId, data } = parsed.event
  return JSON.stringify(redact({ id, type, source, tenantid: tenantId, data }))
}

// JetStream's own headers belong to one publication, not to the event; Postgres's JSON holds no NUL.
function ownHeaders(headers: ReadonlyMap<string, string>): Record<string, string> {
  return Object.fromEntries(
    [...headers]
      .filter(([name]) => !/^(nats-|tabib-)/i.test(name))
      .map(([name, value]) => [name, value.replaceAll('\0', '').toWellFormed()]),
  )
}

async function tellOps(
  tx: Transaction,
  { service, name, stream }: ConsumerSpec,
  parsed: ParsedEvent,
  { reason, detail, fingerprint }: Rejection,
): Promise<void> {
  const type = typeOf(parsed)
  await raiseIncident(tx, {
    dedupeKey: incidentKey(fingerprint),
    severity: 'page',
    mode: 'billing/FM-18',
    service,
    title: `${service}: ${name} gave up on ${type}: ${reason}`,
    detail: { consumer: name, stream, type, reason, failure: detail, fingerprint },
    runbook: 'runbooks/billing/fm-18-poison-event.md',
  })
}

const typeOf = (parsed: ParsedEvent): string =>
  (parsed.kind === 'event' ? parsed.event.type : parsed.seen.type) ?? 'an unknown event'

interface Letter {
  id: string
  redrives: number
  eventId: string
  type: string | null
  reason: string
  stream: string
  streamSeq: bigint
  headers: Record<string, string>
  payload: Buffer
}

async function unpublishedLetters(
  { db }: { db: Database },
  { service, name }: { service: Service; name: string },
  id?: string,
): Promise<Letter[]> {
  return db.query<Letter>(
    `select id, redrives, event_id as "eventId", type, reason, stream, stream_seq as "streamSeq", headers, payload
     from tabib.quarantine
     where service = $1 and origin = 'inbox' and consumer = $2 and ($3::uuid is null or id = $3)
       and state = 'open' and dead_lettered_at is null
     order by id limit 1000`,
    [service, name, id],
  )
}

const letterId = ({ id, redrives }: Letter): string => `dlq:${id}:${redrives}`

async function publishLetter(
  { db, nats }: { db: Database; nats: Nats },
  { service, name }: ConsumerSpec,
  letter: Letter,
): Promise<void> {
  const headers = new Map([
    ...Object.entries(letter.headers),
    ['tabib-quarantine', letter.id],
    ['tabib-event-id', encodeURI(letter.eventId)],
    ['tabib-reason', letter.reason],
    ['tabib-stream', `${letter.stream}:${letter.streamSeq}`],
  ])
  const headerBytes = [...headers].reduce(
    (sum, [key, value]) => sum + Buffer.byteLength(key + value) + 4,
    200,
  )
  // With our headers an event may be larger than the server takes; the quarantine has it whole.
  const fits = headerBytes + letter.payload.length <= (await nats.maxPayload())
  if (!fits) headers.set('tabib-payload', 'in quarantine')
  await nats.store({
    subject: `${service}.dlq.${name}.${subjectTokens(letter.type)}`,
    messageId: letterId(letter),
    headers,
    payload: fits ? letter.payload : new Uint8Array(),
  })
  await markPublished({ db }, letter)
}

async function markPublished({ db }: { db: Database }, { id, redrives }: Letter): Promise<void> {
  await db.query(
    'update tabib.quarantine set dead_lettered_at = now() where id = $1 and redrives = $2 and dead_lettered_at is null',
    [id, redrives],
  )
}

// A foreign type may hold anything; what no subject may hold becomes an underscore.
function subjectTokens(type: string | null): string {
  const tokens = (type ?? '').replace(/[^\w.-]/g, '_').split('.')
  return tokens.every((token) => token !== '') ? tokens.join('.').slice(0, 256) : 'unknown'
}
