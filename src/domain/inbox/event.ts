/** A delivered event that can be handled: CloudEvents 1.0 with the attributes that tabib's outbox adds. */
export interface InboxEvent {
  id: string
  /** `<service>.<aggregate type>.<type>`, as in `virtual-care.session.ended`. */
  type: string
  source: string
  tenantId: string
  aggregateType: string | null
  aggregateId: string | null
  /** Place in its outbox, which rises within an aggregate. */
  aggSeq: bigint | null
  time: Date | null
  data: Record<string, unknown>
}

/** Why a message is no event. Stable words: they are stored, filtered on and documented. */
export type EventFlaw =
  | 'not-utf8'
  | 'not-json'
  | 'not-cloudevent'
  | 'no-id'
  | 'no-tenant'
  | 'lone-surrogate'
  | 'not-finite'
  | 'too-deep'

export type ParsedEvent =
  | { kind: 'event'; event: InboxEvent }
  /** `seen` is what could be read all the same. */
  | { kind: 'flaw'; flaw: EventFlaw; detail: string; seen: Partial<InboxEvent>; json: unknown }

const MAX_DEPTH = 64
const MAX_ID = 512

/**
 * Reads a message as CloudEvents 1.0 in structured mode (JSON, RFC 8259). What strict readers in other languages would
 * refuse is refused here too, so that an event means the same to all: lone surrogates, numbers beyond a double.
 * Never throws.
 */
export function parseEvent(payload: Uint8Array): ParsedEvent {
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(payload)
  } catch {
    return { kind: 'flaw', flaw: 'not-utf8', detail: 'the payload is not UTF-8', seen: {}, json: undefined }
  }
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch {
    return { kind: 'flaw', flaw: 'not-json', detail: 'the payload is not JSON', seen: {}, json: undefined }
  }
  const seen = isObject(json) ? attributes(json) : {}
  const flawed = (flaw: EventFlaw, detail: string): ParsedEvent => ({
    kind: 'flaw',
    flaw,
    detail,
    seen,
    json: flaw === 'too-deep' ? undefined : json,
  })
  const flaw = contentFlaw(json)
  if (flaw !== undefined) return flawed(...flaw)
  if (!isObject(json)) return flawed('not-cloudevent', 'the payload is not an object')
  if (json.specversion !== '1.0') return flawed('not-cloudevent', 'specversion is not "1.0"')
  const { id, type, source, tenantId } = seen
  if (id === undefined) {
    return flawed('no-id', `id is no text of 1 to ${MAX_ID} characters without control characters`)
  }
  if (type === undefined) return flawed('not-cloudevent', 'type is missing')
  if (source === undefined) return flawed('not-cloudevent', 'source is missing')
  if (!isObject(json.data)) return flawed('not-cloudevent', 'data is not an object')
  if (tenantId === undefined) return flawed('no-tenant', 'tenantid is no UUID')
  return {
    kind: 'event',
    event: {
      id,
      type,
      source,
      tenantId,
      aggregateType: seen.aggregateType ?? null,
      aggregateId: seen.aggregateId ?? null,
      aggSeq: seen.aggSeq ?? null,
      time: seen.time ?? null,
      data: json.data,
    },
  }
}

function attributes(json: Record<string, unknown>): Partial<InboxEvent> {
  const seen: Partial<InboxEvent> = {}
  const { id, type, source, tenantid, subject, sequence, time } = json
  if (isName(id)) seen.id = id
  if (isName(type)) seen.type = type
  if (isName(source)) seen.source = source
  if (typeof tenantid === 'string' && UUID.test(tenantid)) seen.tenantId = tenantid
  if (isName(subject)) {
    const slash = subject.indexOf('/')
    if (slash > 0) seen.aggregateType = subject.slice(0, slash)
    if (slash > 0) seen.aggregateId = subject.slice(slash + 1)
  }
  if (typeof sequence === 'string' && /^\d{1,18}$/.test(sequence)) seen.aggSeq = BigInt(sequence)
  if (typeof time === 'string') {
    const at = new Date(time)
    if (!Number.isNaN(at.getTime())) seen.time = at
  }
  return seen
}

/** Walks without recursion: nesting of a hostile message must not exhaust the stack. */
function contentFlaw(json: unknown): [EventFlaw, string] | undefined {
  const open: [value: unknown, depth: number][] = [[json, 0]]
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const [value, depth] = next
    if (typeof value === 'string' && !value.isWellFormed()) {
      return ['lone-surrogate', 'a string holds a lone surrogate']
    }
    if (typeof value === 'number' && !Number.isFinite(value)) {
      return ['not-finite', 'a number is beyond what JSON readers hold']
    }
    if (typeof value !== 'object' || value === null) continue
    if (depth === MAX_DEPTH) return ['too-deep', `nested deeper than ${MAX_DEPTH} levels`]
    for (const [key, inner] of Object.entries(value)) {
      if (!key.isWellFormed()) return ['lone-surrogate', 'a name holds a lone surrogate']
      open.push([inner, depth + 1])
    }
  }
  return undefined
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const isName = (value: unknown): value is string =>
  typeof value === 'string' &&
  value.length > 0 &&
  value.length <= MAX_ID &&
  value.isWellFormed() &&
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  !/[\x00-\x1f\x7f]/.test(value)
