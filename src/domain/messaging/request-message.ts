import { createHash } from 'node:crypto'
import { type Database, isDatabaseAway, type Transaction } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { type ErasedSystems, erasedHash } from '../erasure/erased.ts'
import { assertSameRequest, type Call } from '../idempotency/key.ts'
import { type Answered, answerOnce, type Effect } from '../idempotency/once.ts'
import type { AcceptedWrite, Preflight } from '../outbox/preflight.ts'
import { asTenant } from '../sessions/tenant.ts'

/** A message to somebody: which text to whom by what way. Never the text itself. */
export interface NewMessage {
  patientId: string
  channel: string
  template: string
  /** What goes into the template's places, as its version of the day wants it; see docs/phi-guard.md. */
  variables?: Record<string, unknown> | undefined
  /** ISO 8601: not before; now, when left out. */
  dueAt?: string | undefined
  /** ISO 8601: not afterwards, as a reminder once the appointment has begun; `messaging.maxAge` decides, when left out. */
  expiresAt?: string | undefined
}

/** Where messages are asked for, by POST; below it by GET. */
export const MESSAGE_PATH = '/api/v1/communication/messages'

/**
 * Takes a message on: it and the event by which it will be sent, in one transaction, once for its key. While Postgres
 * takes no writes it waits in the preflight, as does whatever comes after it until all that waits is drained, so that
 * the order stays: 202 instead of 201, with the id that it will have.
 *
 * @throws TabibError IDEMPOTENCY_KEY_REUSED, REQUEST_IN_PROGRESS; SUBJECT_ERASED of a patient who is erased, or whose erasure was
 * accepted; POSTGRES_UNREACHABLE without a preflight, PREFLIGHT_FULL
 * with one: ask again with the same key.
 */
export async function requestMessage(
  { preflight, ...systems }: MessageSystems & { preflight: Preflight | undefined },
  call: Call,
  message: NewMessage,
): Promise<Answered> {
  if (preflight === undefined) return makeMessage(systems, call, message)
  if (await preflight.hasWaiting()) return wait(preflight, call, message)
  try {
    return await makeMessage(systems, call, message)
  } catch (error) {
    // What the primary alone has, the preflight keeps too, until a standby has it.
    const alone = error instanceof TabibError && error.code === 'NOT_REPLICATED'
    if (!alone && !isDatabaseAway(error)) throw error
    return wait(preflight, call, message)
  }
}

/**
 * Makes what waited, once; however often it is called.
 * @throws TabibError SUBJECT_ERASED when its patient was erased in the meantime.
 */
export async function makeWaiting(systems: MessageSystems, { call, asked }: AcceptedWrite): Promise<void> {
  if (call.route !== `POST ${MESSAGE_PATH}`) throw new TabibError('USAGE', `${call.route} is no such write`)
  await makeMessage(systems, call, asked as NewMessage)
}

/** A message, and as of when that is so where a replica tells it. */
export interface FoundMessage {
  id: string
  channel: string
  template: string
  /** `queued`, `sent`, `failed`, `expired`, `cancelled`; whatever feedback makes of it afterwards. */
  status: string
  sentAt: Date | null
}

/** One message of a tenant; undefined when there is none. */
export async function findMessage(
  { db }: { db: Database },
  { tenantId, id }: { tenantId: string; id: string },
): Promise<FoundMessage | undefined> {
  const [found] = await asTenant(db, tenantId, (tx) =>
    tx.query<FoundMessage>(
      `select id, channel, template, status, sent_at as "sentAt" from communication.message
       where tenant_id = $1 and id = $2`,
      [tenantId, id],
    ),
  )
  return found
}

type MessageSystems = ErasedSystems & { readonly db: Database }

async function makeMessage(systems: MessageSystems, call: Call, message: NewMessage): Promise<Answered> {
  const { tenantId } = call
  if (await erasedHash(systems, { tenantId, patientId: message.patientId })) {
    throw new TabibError('SUBJECT_ERASED', 'the patient was erased, and is not written to')
  }
  return answerOnce(systems, call, (tx) => insertMessage(tx, call, message))
}

async function insertMessage(
  tx: Transaction,
  call: Call,
  { patientId, channel, template, variables, dueAt, expiresAt }: NewMessage,
): Promise<Effect> {
  const { tenantId } = call
  const id = idOf(call)
  const [made] = await tx.query(
    `insert into communication.message (id, tenant_id, patient_id, channel, template, status, variables, due_at, expires_at)
     values ($1, $2, $3, $4, $5, 'queued', $6, coalesce($7, clock_timestamp()), $8) on conflict (id) do nothing returning id`,
    [id, tenantId, patientId, channel, template, JSON.stringify(variables ?? {}), dueAt, expiresAt],
    'message_insert',
  )
  const answer = { status: 201, body: JSON.stringify({ id, status: 'queued' }) }
  // Beyond the life of its key.
  if (!made) return { ...answer, again: true }
  await tx.query(
    `insert into communication.outbox (id, tenant_id, aggregate_type, aggregate_id, type, data)
     values ($1::uuid, $2, 'message', $1::uuid::text, 'queued', $3)`,
    [id, tenantId, JSON.stringify({ messageId: id, channel, template })],
    'message_event',
  )
  return answer
}

async function wait(preflight: Preflight, call: Call, asked: NewMessage): Promise<Answered> {
  const id = idOf(call)
  const first = preflight.acceptedBefore(call)
  if (first) assertSameRequest(call, first.call)
  else await preflight.accept({ id, acceptedAt: new Date(), call, asked })
  return { status: 202, body: JSON.stringify({ id, status: 'accepted' }), replayed: first !== undefined }
}

/** A UUID of version 8 (RFC 9562) of the call: whoever makes the message a second time makes the same. */
function idOf({ service, tenantId, route, key }: Call): string {
  const bytes = createHash('sha256')
    .update(JSON.stringify([service, tenantId, route, key]))
    .digest()
    .subarray(0, 16)
  bytes[6] = (bytes[6]! & 0x0f) | 0x80
  bytes[8] = (bytes[8]! & 0x3f) | 0x80
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')
}
