import type { Span } from '../../adapters/nats/client.ts'
import type { OutboxSource } from './source.ts'

/** One outbox row as the relay reads it: text as Postgres prints it, nothing parsed that is only passed on. */
export interface OutboxRow {
  /** Text: a 64-bit number that is only compared by Postgres. */
  seq: string
  id: string
  tenantId: string
  aggregateType: string
  aggregateId: string
  type: string
  /** JSON text, in UTF-8 where it was streamed; null when the value is so large that it was not even read. */
  data: string | Span | null
  headers: string | null
  subject: string | null
  /** `2026-11-22 05:00:00.123456+00` */
  occurredAt: string
}

/** What `toRow` reads of the rows `w`, in its order: all of it text. */
export const ROW_NAMES =
  'w.seq::text as seq, id, tenant_id, aggregate_type, aggregate_id, type, occurred_at, data, headers, subject'

/**
 * Select list of an outbox row; without data and headers where `withData` (SQL) is false, and without data where it is
 * larger than may be read.
 */
export function rowColumns({ column: c }: OutboxSource, maxDataBytes: number, withData: string): string {
  return `${c.seq} as seq, ${c.id}::text as id, ${c.tenant_id}::text as tenant_id,
    ${c.aggregate_type}::text as aggregate_type, ${c.aggregate_id}::text as aggregate_id, ${c.type}::text as type,
    case when ${withData} and pg_column_size(${c.data}) <= ${Math.floor(maxDataBytes)} then ${c.data}::text end as data,
    case when ${withData} then ${c.headers}::text end as headers, ${c.subject}::text as subject, ${c.occurred_at}::timestamptz::text as occurred_at`
}

/** A row as a query for text returned it. */
export function toRow(row: string[]): OutboxRow {
  return {
    seq: row[0]!,
    id: row[1]!,
    tenantId: row[2]!,
    aggregateType: row[3]!,
    aggregateId: row[4]!,
    type: row[5]!,
    occurredAt: row[6]!,
    data: row[7] ?? null,
    headers: row[8] ?? null,
    subject: row[9] ?? null,
  }
}

const FIELDS = 10
// Of the row that is being read: where each of its fields ends. Made once, since an array a row is garbage a row.
const ends = new Int32Array(FIELDS)

/**
 * A row as COPY sent it: a count of fields, then each as its size, or -1 for null, and its bytes. Nothing is made text until
 * it is asked for: what waits for its turn or its answer should be small, since each collection of garbage copies it.
 */
export class CopiedRow implements OutboxRow {
  readonly #bytes: Buffer
  readonly #start: number

  constructor(bytes: Buffer, start: number) {
    this.#bytes = bytes
    this.#start = start
  }

  get seq() {
    return this.#field(0)!
  }
  get id() {
    return this.#field(1)!
  }
  get tenantId() {
    return this.#field(2)!
  }
  get aggregateType() {
    return this.#field(3)!
  }
  get aggregateId() {
    return this.#field(4)!
  }
  get type() {
    return this.#field(5)!
  }
  get occurredAt() {
    return this.#field(6)!
  }
  get data() {
    return this.#field(7)
  }
  get headers() {
    return this.#field(8)
  }
  get subject() {
    return this.#field(9)
  }

  /** All of it, with the data left as bytes. What stands before the data is made text at once, and cut. */
  read(): OutboxRow {
    const bytes = this.#bytes
    const start = this.#start
    let end = start + 2
    for (let i = 0; i < FIELDS; i++) {
      end += 4 + Math.max(bytes.readInt32BE(end), 0)
      ends[i] = end
    }
    const head = bytes.toString('utf8', start, ends[6])
    // A character of more than one byte makes the text shorter than its bytes.
    const cut = head.length === ends[6]! - start ? head : undefined
    return {
      seq: this.#cut(cut, 0),
      id: this.#cut(cut, 1),
      tenantId: this.#cut(cut, 2),
      aggregateType: this.#cut(cut, 3),
      aggregateId: this.#cut(cut, 4),
      type: this.#cut(cut, 5),
      occurredAt: this.#cut(cut, 6),
      data: bytes.readInt32BE(ends[6]!) < 0 ? null : { bytes, start: ends[6]! + 4, end: ends[7]! },
      headers: this.#field(8),
      subject: this.#field(9),
    }
  }

  #cut(head: string | undefined, n: number): string {
    const from = (n === 0 ? this.#start + 2 : ends[n - 1]!) + 4
    return head === undefined
      ? this.#bytes.toString('utf8', from, ends[n])
      : head.slice(from - this.#start, ends[n]! - this.#start)
  }

  #field(n: number): string | null {
    let at = this.#start + 2
    for (let i = 0; i < n; i++) at += 4 + Math.max(this.#bytes.readInt32BE(at), 0)
    const size = this.#bytes.readInt32BE(at)
    return size < 0 ? null : this.#bytes.toString('utf8', at + 4, at + 4 + size)
  }
}
