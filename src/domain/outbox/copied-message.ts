import type { PublishableMessage } from '../../adapters/nats/client.ts'
import { type Kind, kindOf, PLAIN } from './envelope.ts'
import { type CopiedRow, FIELD } from './row.ts'
import type { OutboxSource } from './source.ts'

/**
 * The message of a row that COPY sent, byte for byte that of `envelope`, without making text of it; undefined where
 * something needs a closer look, `envelope`'s: own headers or subject, a value to be escaped, data that may be too large.
 * It is to be sent before the next is asked for: there is only one.
 */
export function copiedMessage(
  row: CopiedRow,
  { service, dataIsJsonb }: Pick<OutboxSource, 'service' | 'dataIsJsonb'>,
  maxPayload: number,
): PublishableMessage | undefined {
  if (!dataIsJsonb) return undefined
  row.locate(starts, ends)
  const { bytes } = row
  const shape = shapeOf(row, service)
  const time = starts[FIELD.occurredAt]!
  const timeEnd = ends[FIELD.occurredAt]!
  const isUsual =
    isNull(FIELD.headers) &&
    isNull(FIELD.subject) &&
    !isNull(FIELD.data) &&
    shape !== undefined &&
    isPlain(bytes, starts[FIELD.aggregateId]!, ends[FIELD.aggregateId]!) &&
    bytes[time + DATE_LENGTH] === SPACE &&
    bytes[timeEnd - 3] === PLUS &&
    bytes[timeEnd - 2] === ZERO &&
    bytes[timeEnd - 1] === ZERO
  if (!isUsual) return undefined
  message.of(bytes, shape)
  return message.atMost <= maxPayload ? message : undefined
}

// Of the row that is being sent. Made once, since two arrays a row are garbage a row.
const starts = new Int32Array(Object.keys(FIELD).length)
const ends = new Int32Array(starts.length)

const isNull = (n: number): boolean => ends[n]! < starts[n]!

const SPACE = 0x20
const PLUS = 0x2b
const ZERO = 0x30
const LETTER_T = 0x54
const LETTER_Z = 0x5a
const CLOSING_BRACE = 0x7d
const DATE_LENGTH = '2026-11-22'.length

const plain = Uint8Array.from({ length: 256 }, (_, byte) => Number(PLAIN.test(String.fromCharCode(byte))))

function isPlain(bytes: Buffer, start: number, end: number): boolean {
  for (let i = start; i < end; i++) if (plain[bytes[i]!] === 0) return false
  return true
}

/** What the messages of one type of event have in common, as bytes. */
interface Shape {
  service: string
  aggregateType: Buffer
  type: Buffer
  subject: string
  headers: Buffer
  payload: Buffer
}

const SHAPES = 256
const shapes: (Shape | undefined)[] = new Array(SHAPES)

/** Found by its bytes; undefined where they are not plain, or no subject can be made of them. */
function shapeOf(row: CopiedRow, service: Kind['service']): Shape | undefined {
  const { bytes } = row
  const from = starts[FIELD.aggregateType]!
  const to = ends[FIELD.aggregateType]!
  const typeFrom = starts[FIELD.type]!
  const typeTo = ends[FIELD.type]!
  let hash = 0
  for (let i = from; i < to; i++) hash = (hash * 31 + bytes[i]!) | 0
  for (let i = typeFrom; i < typeTo; i++) hash = (hash * 31 + bytes[i]!) | 0
  const known = shapes[hash & (SHAPES - 1)]
  if (
    known !== undefined &&
    known.service === service &&
    isSame(known.aggregateType, bytes, from, to) &&
    isSame(known.type, bytes, typeFrom, typeTo)
  ) {
    return known
  }
  if (!isPlain(bytes, from, to) || !isPlain(bytes, typeFrom, typeTo)) return undefined
  const { subject, misplaced, headers, payload } = kindOf(service, row.aggregateType, row.type)
  if (misplaced !== undefined) return undefined
  const shape = {
    service,
    aggregateType: Buffer.from(row.aggregateType),
    type: Buffer.from(row.type),
    subject,
    headers: Buffer.from(headers),
    payload: Buffer.from(payload),
  }
  shapes[hash & (SHAPES - 1)] = shape
  return shape
}

function isSame(known: Buffer, bytes: Buffer, start: number, end: number): boolean {
  if (known.length !== end - start) return false
  for (let i = start; i < end; i++) if (bytes[i] !== known[i - start]) return false
  return true
}

/** A part of a message: what stands before a field, then the field. */
interface Part {
  before: Buffer
  field: number
}
const parts = (...pairs: [string, number][]): Part[] =>
  pairs.map(([before, field]) => ({ before: Buffer.from(before), field }))

/** What follows a shape's headers, and its payload. */
const HEADERS = parts(
  ['', FIELD.id],
  ['\r\ntenant_id: ', FIELD.tenantId],
  ['\r\naggregate_id: ', FIELD.aggregateId],
  ['\r\nagg_seq: ', FIELD.seq],
)
const HEADERS_END = Buffer.from('\r\n\r\n')
const PAYLOAD = parts(
  ['', FIELD.aggregateId],
  ['","id":"', FIELD.id],
  ['","time":"', FIELD.occurredAt],
  ['","tenantid":"', FIELD.tenantId],
  ['","sequence":"', FIELD.seq],
  ['","data":', FIELD.data],
)
/** More than all that stands between the fields. */
const BETWEEN_BYTES = 128

class CopiedMessage implements PublishableMessage {
  subject = ''
  atMost = 0
  #bytes: Buffer = Buffer.alloc(0)
  #shape!: Shape

  of(bytes: Buffer, shape: Shape): void {
    this.#bytes = bytes
    this.#shape = shape
    this.subject = shape.subject
    this.atMost =
      shape.headers.length +
      shape.payload.length +
      BETWEEN_BYTES +
      2 * (ends[FIELD.data]! - starts[FIELD.seq]!)
  }

  writeHeaders(into: Buffer, at: number): number {
    into.set(this.#shape.headers, at)
    const end = this.#write(HEADERS, into, at + this.#shape.headers.length)
    into.set(HEADERS_END, end)
    return end + HEADERS_END.length
  }

  writePayload(into: Buffer, at: number): number {
    into.set(this.#shape.payload, at)
    const end = this.#write(PAYLOAD, into, at + this.#shape.payload.length)
    into[end] = CLOSING_BRACE
    return end + 1
  }

  // In one loop of loops: V8 takes long to compile a loop once for each of the places that it stands in.
  #write(list: Part[], into: Buffer, at: number): number {
    let end = at
    for (const { before, field } of list) {
      for (let i = 0; i < before.length; i++) into[end++] = before[i]!
      const start = starts[field]!
      const length = ends[field]! - start
      if (length > LONG) this.#bytes.copy(into, end, start, start + length)
      else for (let i = 0; i < length; i++) into[end + i] = this.#bytes[start + i]!
      end += length
      if (field === FIELD.occurredAt) {
        // `2026-11-22 05:00:00.123456+00` becomes `2026-11-22T05:00:00.123456Z`.
        into[end - length + DATE_LENGTH] = LETTER_T
        end -= 2
        into[end - 1] = LETTER_Z
      }
    }
    return end
  }
}

const message = new CopiedMessage()

// For so few bytes a loop is cheaper than `copy`.
const LONG = 512
