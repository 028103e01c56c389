import { encodeHeaders } from '../../adapters/nats/client.ts'
import type { Service } from '../../service.ts'
import type { OutboxRow } from './window.ts'

/** A row as it goes over the wire. */
export interface Message {
  subject: string
  headers: Uint8Array
  payload: Uint8Array
}

/** Why an event can never be published as it stands. Stable words: they are stored, filtered on and documented. */
export type PoisonReason =
  | 'too-large'
  | 'bad-subject'
  | 'bad-header'
  | 'unserialisable'
  | 'refused'
  | 'crashes-relay'

export type Enveloped =
  | { kind: 'message'; message: Message }
  | { kind: 'poison'; reason: PoisonReason; detail: string }

export interface EnvelopeOptions {
  service: Service
  /** Bytes a message may have, headers included. */
  maxPayload: number
  /** `data` comes from a `jsonb` column, hence is known to be JSON; a mapped `text` or `json` column is parsed first. */
  dataIsJsonb: boolean
  /** `Nats-Msg-Id` when it isn't the event's id: a replay needs one that the stream has not seen. */
  messageId?: string
  extraHeaders?: Record<string, string>
}

/**
 * Wraps a row as a CloudEvents 1.0 event in structured mode (JSON), with `sequence` from the CloudEvents sequence
 * extension. The row's JSON goes in as Postgres printed it: numbers keep every digit.
 */
export function envelope(row: OutboxRow, options: EnvelopeOptions): Enveloped {
  const { service, maxPayload } = options
  if (row.data === null) {
    return poison('too-large', `data is over twice the server's max_payload of ${maxPayload} bytes`)
  }
  const subject = row.subject ?? `${service}.evt.${row.aggregateType}.${row.type}`
  if (!isPublishable(subject)) {
    return poison(
      'bad-subject',
      `${JSON.stringify(subject.slice(0, 200))} has a wildcard, white space or an empty token`,
    )
  }
  if (!subject.startsWith(`${service}.evt.`)) {
    return poison('bad-subject', `${JSON.stringify(subject.slice(0, 200))} lies outside ${service}.evt.>`)
  }
  if (!options.dataIsJsonb) {
    const flaw = jsonFlaw(row.data)
    if (flaw !== undefined) return poison('unserialisable', flaw)
  }
  const headers: Record<string, string> = {
    'Nats-Msg-Id': options.messageId ?? row.id,
    'Content-Type': 'application/cloudevents+json',
    tenant_id: row.tenantId,
    aggregate_type: headerValue(row.aggregateType),
    aggregate_id: headerValue(row.aggregateId),
    agg_seq: row.seq.toString(),
    ...options.extraHeaders,
  }
  if (row.headers !== null) {
    const flaw = addOwnHeaders(headers, row.headers)
    if (flaw !== undefined) return poison('bad-header', flaw)
  }
  const json =
    `{"specversion":"1.0","id":${JSON.stringify(row.id)},"source":"/${service}",` +
    `"type":${JSON.stringify(`${service}.${row.aggregateType}.${row.type}`)},` +
    `"subject":${JSON.stringify(`${row.aggregateType}/${row.aggregateId}`)},"time":"${toRfc3339(row.occurredAt)}",` +
    `"datacontenttype":"application/json","tenantid":"${row.tenantId}","sequence":"${row.seq}","data":${row.data}}`
  const message = { subject, headers: encodeHeaders(headers), payload: Buffer.from(json, 'utf8') }
  const bytes = message.headers.length + message.payload.length
  if (bytes > maxPayload) return poison('too-large', `${bytes} bytes; the server takes ${maxPayload}`)
  return { kind: 'message', message }
}

const poison = (reason: PoisonReason, detail: string): Enveloped => ({ kind: 'poison', reason, detail })

// Subjects repeat, and testing one costs more than remembering it; bounded, since a subject may hold an id.
const checked = new Map<string, boolean>()

function isPublishable(subject: string): boolean {
  const known = checked.get(subject)
  if (known !== undefined) return known
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  const ok = subject.length <= 1_024 && /^[^\s*>.\x00-\x1f\x7f]+(\.[^\s*>.\x00-\x1f\x7f]+)*$/.test(subject)
  if (checked.size >= 10_000) checked.clear()
  checked.set(subject, ok)
  return ok
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const CONTROL = /[\x00-\x1f\x7f]/

const headerValue = (text: string): string => (CONTROL.test(text) ? encodeURIComponent(text) : text)

const RESERVED = /^(nats-|tenant_id$|aggregate_type$|aggregate_id$|agg_seq$|content-type$)/i

function addOwnHeaders(headers: Record<string, string>, text: string): string | undefined {
  const own: unknown = JSON.parse(text)
  if (own === null) return undefined
  if (typeof own !== 'object' || Array.isArray(own)) return 'headers is not a JSON object'
  for (const [name, value] of Object.entries(own)) {
    if (!/^[A-Za-z0-9_-]+$/.test(name)) return `header name ${JSON.stringify(name.slice(0, 100))}`
    if (RESERVED.test(name)) return `header ${name} is the relay's own`
    if (typeof value === 'object') return `header ${name} is not a string, number or boolean`
    if (CONTROL.test(String(value))) return `header ${name} holds a control character`
    headers[name] = String(value)
  }
  return undefined
}

// RFC 8259 section 8.1 wants UTF-8, which has no lone surrogates; JSON.parse lets them pass, and 1e400 as Infinity.
function jsonFlaw(text: string): string | undefined {
  try {
    let flaw: string | undefined
    JSON.parse(text, (_key, value: unknown) => {
      if (typeof value === 'string' && !value.isWellFormed()) flaw = 'a string holds a lone surrogate'
      if (typeof value === 'number' && !Number.isFinite(value))
        flaw = 'a number is beyond what JSON readers hold'
      return value
    })
    return flaw
  } catch {
    return 'data is not JSON'
  }
}

// Postgres in ISO style and UTC prints `2026-11-22 05:00:00.123456+00`.
const toRfc3339 = (text: string): string => `${text.slice(0, 10)}T${text.slice(11).replace(/\+00$/, 'Z')}`
