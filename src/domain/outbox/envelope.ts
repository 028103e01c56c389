import type { PublishableMessage } from '../../adapters/nats/client.ts'
import type { Service } from '../../service.ts'
import type { OutboxRow } from './row.ts'

/** Why an event can never be published as it stands. Stable words: they are stored, filtered on and documented. */
export type PoisonReason =
  | 'too-large'
  | 'bad-subject'
  | 'bad-header'
  | 'unserialisable'
  | 'refused'
  | 'crashes-relay'

export type Enveloped<M extends PublishableMessage = PublishableMessage> =
  | { kind: 'message'; message: M }
  | { kind: 'poison'; reason: PoisonReason; detail: string }

export interface EnvelopeOptions {
  service: Service
  /** Bytes a message may have, headers included. */
  maxPayload: number
  /** `data` comes from a `jsonb` column, hence is known to be JSON; a mapped `text` or `json` column is parsed first. */
  dataIsJsonb: boolean
  /** `Nats-Msg-Id` when it isn't the event's id: a replay needs one that the stream has not seen. */
  messageId?: string
  /** Further header lines, each ended by CR LF. */
  extraHeaders?: string
}

/**
 * Wraps a row as a CloudEvents 1.0 event in structured mode (JSON), with `sequence` from the CloudEvents sequence
 * extension. The row's JSON goes in as Postgres printed it: numbers keep every digit.
 */
export function envelope(row: OutboxRow, options: EnvelopeOptions): Enveloped<TextMessage> {
  const { service, maxPayload } = options
  const { data } = row
  if (data === null) {
    return poison('too-large', `data is over twice the server's max_payload of ${maxPayload} bytes`)
  }
  const kind = kindOf(service, row.aggregateType, row.type)
  const chosen = row.subject
  const subject = chosen ?? kind.subject
  const misplaced = chosen === null ? kind.misplaced : misplacement(service, subject)
  if (misplaced !== undefined) return poison('bad-subject', misplaced)
  if (!options.dataIsJsonb) {
    const flaw = jsonFlaw(data)
    if (flaw !== undefined) return poison('unserialisable', flaw)
  }
  let own = ''
  const wanted = row.headers
  if (wanted !== null) {
    const { lines, flaw } = ownHeaders(wanted)
    if (flaw !== undefined) return poison('bad-header', flaw)
    own = lines
  }
  const { id, tenantId, aggregateId, seq } = row
  const plain = PLAIN.test(aggregateId) && (options.dataIsJsonb || (PLAIN.test(id) && PLAIN.test(tenantId)))
  const inHeader = plain ? asItIs : headerValue
  const inJson = plain ? asItIs : escaped
  const headers =
    `${kind.headers}${inHeader(options.messageId ?? id)}\r\ntenant_id: ${inHeader(tenantId)}\r\n` +
    `aggregate_id: ${inHeader(aggregateId)}\r\nagg_seq: ${seq}\r\n${options.extraHeaders ?? ''}${own}\r\n`
  const payload =
    `${kind.payload}${inJson(aggregateId)}","id":"${inJson(id)}","time":"${toRfc3339(row.occurredAt)}",` +
    `"tenantid":"${inJson(tenantId)}","sequence":"${seq}","data":${data}}`
  // A character takes three bytes at most, so that few messages need to be measured.
  if ((headers.length + payload.length) * 3 > maxPayload) {
    const bytes = Buffer.byteLength(headers) + Buffer.byteLength(payload)
    if (bytes > maxPayload) return poison('too-large', `${bytes} bytes; the server takes ${maxPayload}`)
  }
  return { kind: 'message', message: new TextMessage(subject, headers, payload) }
}

export class TextMessage implements PublishableMessage {
  readonly subject: string
  readonly headers: string
  readonly payload: string

  constructor(subject: string, headers: string, payload: string) {
    this.subject = subject
    this.headers = headers
    this.payload = payload
  }

  get atMost(): number {
    return 3 * (this.headers.length + this.payload.length)
  }

  writeHeaders(into: Buffer, at: number): number {
    return at + into.write(this.headers, at)
  }

  writePayload(into: Buffer, at: number): number {
    return at + into.write(this.payload, at)
  }
}

const poison = (reason: PoisonReason, detail: string): Enveloped<never> => ({
  kind: 'poison',
  reason,
  detail,
})

/** What the messages of one type of event have in common, ready to be sent. */
export interface Kind {
  service: Service
  subject: string
  /** Why nothing can be published under that subject. */
  misplaced: string | undefined
  /** The headers up to the value of `Nats-Msg-Id`. */
  headers: string
  /** The payload up to the aggregate's id. */
  payload: string
}

// Remembered, since to make them anew costs more than all the rest; bounded, since a type may be anything.
const kinds = new Map<string, Map<string, Kind>>()
let kindCount = 0

export function kindOf(service: Service, aggregateType: string, type: string): Kind {
  const known = kinds.get(aggregateType)?.get(type)
  if (known?.service === service) return known
  const subject = `${service}.evt.${aggregateType}.${type}`
  const kind = {
    service,
    subject,
    misplaced: misplacement(service, subject),
    headers:
      `NATS/1.0\r\nContent-Type: application/cloudevents+json\r\naggregate_type: ${headerValue(aggregateType)}\r\n` +
      'Nats-Msg-Id: ',
    payload:
      `{"specversion":"1.0","source":"/${service}","type":"${escaped(`${service}.${aggregateType}.${type}`)}",` +
      `"datacontenttype":"application/json","subject":"${escaped(`${aggregateType}/`)}`,
  }
  if (kindCount >= 10_000) {
    kinds.clear()
    kindCount = 0
  }
  kindCount += 1
  const ofAggregate = kinds.get(aggregateType) ?? new Map<string, Kind>()
  kinds.set(aggregateType, ofAggregate.set(type, kind))
  return kind
}

function misplacement(service: Service, subject: string): string | undefined {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  if (subject.length > 1_024 || !/^[^\s*>.\x00-\x1f\x7f]+(\.[^\s*>.\x00-\x1f\x7f]+)*$/.test(subject)) {
    return `${JSON.stringify(subject.slice(0, 200))} has a wildcard, white space or an empty token`
  }
  if (!subject.startsWith(`${service}.evt.`)) {
    return `${JSON.stringify(subject.slice(0, 200))} lies outside ${service}.evt.>`
  }
  return undefined
}

// Needs no escape in JSON, and looking is cheaper than escaping. Ids are text in a mapped outbox.
export const PLAIN = /^[\w\-./: ]*$/

/** The text as it stands between the quotes of a JSON string. */
const escaped = (text: string): string => (PLAIN.test(text) ? text : JSON.stringify(text).slice(1, -1))

const asItIs = (text: string): string => text

// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const CONTROL = /[\x00-\x1f\x7f]/

const headerValue = (text: string): string => (CONTROL.test(text) ? encodeURIComponent(text) : text)

const RESERVED = /^(nats-|tenant_id$|aggregate_type$|aggregate_id$|agg_seq$|content-type$)/i

function ownHeaders(text: string): { lines: string; flaw?: string } {
  const own: unknown = JSON.parse(text)
  let lines = ''
  if (own === null) return { lines }
  if (typeof own !== 'object' || Array.isArray(own)) return { lines, flaw: 'headers is not a JSON object' }
  for (const [name, value] of Object.entries(own)) {
    if (!/^[A-Za-z0-9_-]+$/.test(name))
      return { lines, flaw: `header name ${JSON.stringify(name.slice(0, 100))}` }
    if (RESERVED.test(name)) return { lines, flaw: `header ${name} is the relay's own` }
    if (value === null || typeof value === 'object') {
      return { lines, flaw: `header ${name} is not a string, number or boolean` }
    }
    if (CONTROL.test(String(value))) return { lines, flaw: `header ${name} holds a control character` }
    lines += `${name}: ${value}\r\n`
  }
  return { lines }
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
const toRfc3339 = (text: string): string => {
  const joined = text.replace(' ', 'T')
  return joined.endsWith('+00') ? `${joined.slice(0, -3)}Z` : joined
}
