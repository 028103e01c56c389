import type { PublishableMessage } from '../../adapters/nats/client.ts'
import type { Service } from '../../service.ts'
import type { OutboxRow } from './window.ts'

/** Why an event can never be published as it stands. Stable words: they are stored, filtered on and documented. */
export type PoisonReason =
  | 'too-large'
  | 'bad-subject'
  | 'bad-header'
  | 'unserialisable'
  | 'refused'
  | 'crashes-relay'

export type Enveloped =
  | { kind: 'message'; message: PublishableMessage }
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
  let headers =
    `NATS/1.0\r\nNats-Msg-Id: ${options.messageId ?? row.id}\r\nContent-Type: application/cloudevents+json\r\n` +
    `tenant_id: ${row.tenantId}\r\naggregate_type: ${headerValue(row.aggregateType)}\r\n` +
    `aggregate_id: ${headerValue(row.aggregateId)}\r\nagg_seq: ${row.seq}\r\n${options.extraHeaders ?? ''}`
  if (row.headers !== null) {
    const own = ownHeaders(row.headers)
    if (own.flaw !== undefined) return poison('bad-header', own.flaw)
    headers += own.lines
  }
  headers += '\r\n'
  const payload =
    `{"specversion":"1.0","id":${quote(row.id)},"source":"/${service}",` +
    `"type":${quote(`${service}.${row.aggregateType}.${row.type}`)},` +
    `"subject":${quote(`${row.aggregateType}/${row.aggregateId}`)},"time":"${toRfc3339(row.occurredAt)}",` +
    `"datacontenttype":"application/json","tenantid":"${row.tenantId}","sequence":"${row.seq}","data":${row.data}}`
  const message = {
    subject,
    headers,
    payload,
    headerBytes: Buffer.byteLength(headers),
    payloadBytes: Buffer.byteLength(payload),
  }
  const bytes = message.headerBytes + message.payloadBytes
  if (bytes > maxPayload) return poison('too-large', `${bytes} bytes; the server takes ${maxPayload}`)
  return { kind: 'message', message }
}

// Most names and ids need no escape, and looking is cheaper than JSON.stringify.
const quote = (text: string): string => (/^[\w\-./: ]*$/.test(text) ? `"${text}"` : JSON.stringify(text))

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
const toRfc3339 = (text: string): string => `${text.slice(0, 10)}T${text.slice(11).replace(/\+00$/, 'Z')}`
