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
  /** JSON text; null when the value is so large that it was not even read. */
  data: string | null
  headers: string | null
  subject: string | null
  /** `2026-11-22 05:00:00.123456+00` */
  occurredAt: string
}

/** What `toRow` reads of the rows `w`, in its order: all of it text. */
export const ROW_NAMES =
  'w.seq::text as seq, id, tenant_id, aggregate_type, aggregate_id, type, occurred_at, data, headers, subject'

/** How many fields that are. */
export const ROW_WIDTH = 10

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

// What V8 keeps in a register rather than in an object.
const SMALL = 0x3fffffff

/** The same for the same aggregate id, whatever the row was read by; from 0 to 2^30 - 1. */
export function aggregateHash(row: OutboxRow): number {
  if (row instanceof CopiedRow) {
    const hash = row.aggregateHash()
    if (hash !== undefined) return hash
  }
  const text = row.aggregateId
  let hash = 0
  for (let i = 0; i < text.length; i++) hash = (Math.imul(hash, 31) + text.charCodeAt(i)) | 0
  return hash & SMALL
}

/** The fields of a `CopiedRow`, in order. */
export const FIELD = {
  seq: 0,
  id: 1,
  tenantId: 2,
  aggregateType: 3,
  aggregateId: 4,
  type: 5,
  occurredAt: 6,
  data: 7,
  headers: 8,
  subject: 9,
} as const
const SIZE_BYTES = 4

/**
 * A row as COPY sent it: a count of fields, then each as its size, or -1 for null, and its bytes. Nothing is made text until
 * it is asked for: what waits for its turn or its answer should be small, since each collection of garbage copies it.
 */
export class CopiedRow implements OutboxRow {
  readonly bytes: Buffer
  readonly #start: number

  constructor(bytes: Buffer, start: number) {
    this.bytes = bytes
    this.#start = start
  }

  get seq() {
    return this.#field(FIELD.seq)!
  }
  get id() {
    return this.#field(FIELD.id)!
  }
  get tenantId() {
    return this.#field(FIELD.tenantId)!
  }
  get aggregateType() {
    return this.#field(FIELD.aggregateType)!
  }
  get aggregateId() {
    return this.#field(FIELD.aggregateId)!
  }
  get type() {
    return this.#field(FIELD.type)!
  }
  get occurredAt() {
    return this.#field(FIELD.occurredAt)!
  }
  get data() {
    return this.#field(FIELD.data)
  }
  get headers() {
    return this.#field(FIELD.headers)
  }
  get subject() {
    return this.#field(FIELD.subject)
  }

  /** Writes down where each field starts and ends in `bytes`; one that is null starts behind its end. */
  locate(starts: Int32Array, ends: Int32Array): void {
    const { bytes } = this
    let at = this.#start + 2
    for (let i = 0; i < ROW_WIDTH; i++) {
      const size = (bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!
      at += SIZE_BYTES
      starts[i] = at
      ends[i] = at + size
      if (size > 0) at += size
    }
  }

  /** `aggregateHash` without making text of the id; undefined when it isn't ASCII. */
  aggregateHash(): number | undefined {
    const { bytes } = this
    let at = this.#start + 2
    for (let i = 0; i < FIELD.aggregateId; i++) at += SIZE_BYTES + bytes.readInt32BE(at)
    const end = at + SIZE_BYTES + bytes.readInt32BE(at)
    let hash = 0
    for (let i = at + SIZE_BYTES; i < end; i++) {
      const byte = bytes[i]!
      if (byte > 0x7f) return undefined
      hash = (Math.imul(hash, 31) + byte) | 0
    }
    return hash & SMALL
  }

  #field(n: number): string | null {
    let at = this.#start + 2
    for (let i = 0; i < n; i++) at += SIZE_BYTES + Math.max(this.bytes.readInt32BE(at), 0)
    const size = this.bytes.readInt32BE(at)
    return size < 0 ? null : this.bytes.toString('utf8', at + SIZE_BYTES, at + SIZE_BYTES + size)
  }
}
