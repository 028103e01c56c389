import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { redact } from '../inbox/redact.ts'
import { EVENT_COLUMNS, type QuarantinedEvent } from './list.ts'

/** One event in quarantine: where it came from, why it is here, and what of it may be shown to anybody. */
export interface ShownEvent extends QuarantinedEvent {
  subject: string | null
  /** What failed, without values of the event. */
  detail: string | null
  occurredAt: Date | null
  /** Name and sequence of the stream it was read from. */
  stream: string | null
  deadLetteredAt: Date | null
  payloadBytes: number
  /** Ids, states and amounts of the payload; null when it is no JSON. */
  redacted: unknown
}

/** What only `--reveal` shows. */
export interface RevealedEvent {
  /** As text when it is UTF-8, else in base64. */
  payload: string
  encoding: 'utf8' | 'base64'
  headers: Record<string, string>
}

interface Stored extends Omit<ShownEvent, 'payloadBytes'> {
  payload: Buffer
  headers: Record<string, string> | null
}

/** @throws TabibError NOT_FOUND */
export async function showQuarantined({ db }: { db: Queryable }, id: string): Promise<ShownEvent> {
  const { payload, headers: _, redacted, ...event } = await read({ db }, id)
  return { ...event, payloadBytes: payload.length, redacted: redacted ?? redactedPayload(payload) }
}

/**
 * The event itself, with whatever it says of a patient. Whoever calls this has written down who asked and why.
 * @throws TabibError NOT_FOUND
 */
export async function revealQuarantined({ db }: { db: Queryable }, id: string): Promise<RevealedEvent> {
  const { payload, headers } = await read({ db }, id)
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(payload)
    return { payload: text, encoding: 'utf8', headers: headers ?? {} }
  } catch {
    return { payload: payload.toString('base64'), encoding: 'base64', headers: headers ?? {} }
  }
}

async function read({ db }: { db: Queryable }, id: string): Promise<Stored> {
  const [event] = isUuid(id)
    ? await db.query<Stored>(
        `select ${EVENT_COLUMNS}, subject, detail, occurred_at as "occurredAt",
           stream || ':' || stream_seq as stream, dead_lettered_at as "deadLetteredAt", redacted, payload, headers
         from tabib.quarantine where id = $1`,
        [id],
      )
    : []
  if (event) return event
  throw notInQuarantine([id])
}

export function notInQuarantine(ids: readonly string[]): TabibError {
  return new TabibError('NOT_FOUND', `there is no event ${ids.join(', ')} in quarantine`, {
    suggestions: ['tabib dlq list'],
  })
}

export const isUuid = (text: string): boolean => /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text)

function redactedPayload(payload: Buffer): unknown {
  try {
    return redact(JSON.parse(payload.toString('utf8')))
  } catch {
    return null
  }
}
