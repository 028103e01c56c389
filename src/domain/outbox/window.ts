import type pg from 'pg'
import type { Span } from '../../adapters/nats/client.ts'
import type { Connection } from '../../adapters/postgres/client.ts'
import type { Position } from './position.ts'
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

/** A page of a window and where the outbox stands once all of it is published. */
export interface Page {
  rows: OutboxRow[]
  after: Position
  /** More of this window waits behind the page. */
  more: boolean
}

/**
 * Reads an outbox by snapshot windows. A window is the difference of two real snapshots: rows whose transaction `done`
 * did not see and `target` does. A transaction that commits late is in the `xip` list of every snapshot taken before,
 * hence in exactly one window; one that stays open is in none, and delays nobody.
 *
 * Within a window rows come by `seq`: transactions that touch the same aggregate hold its row lock while they take
 * their numbers, so within an aggregate `seq` is commit order.
 */
export interface WindowReader {
  /** The pages after `position` as they are read, ahead of who takes them; none when nothing new is committed. */
  pages(position: Position, limits: { pageRows: number; rows: number }): AsyncIterable<Page>
  /**
   * The page after `position`, or undefined when nothing new is committed. `limit` rows at most. With `headOnly` every
   * `data` is null: to learn which event comes next without touching it.
   */
  read(position: Position, limit: number, options?: { headOnly?: boolean }): Promise<Page | undefined>
  /** The same page with its data: rows that were committed meanwhile are not in it. */
  fill(page: Page): Promise<Page>
}

interface Bounds {
  target: string
  /** Lowest seq among rows of transactions younger than `done`: the ordered scan starts here. */
  low: bigint
}

/**
 * `connection` is the reader's own: its planner settings are changed. `maxDataBytes` bounds what is read of one row;
 * larger values come as null (the size is the stored one, compressed, so that looking costs nothing).
 */
export async function openWindowReader(
  connection: Connection,
  source: OutboxSource,
  { maxDataBytes }: { maxDataBytes: number },
): Promise<WindowReader> {
  await pinPlans(connection)
  const { table, column: c } = source
  const columns = rowColumns(source, maxDataBytes, '$4::bool')
  const names = ROW_NAMES

  // Young rows by their index order, late ones by lookup: both without a sort of the whole backlog. `seq + 0` keeps
  // the late rows off the seq index, which would be walked to its end to find a handful.
  const probe = `select ${names}, (select pg_current_snapshot()::text) as target from (
      (select ${columns} from ${table} where ${c.xid} >= $1::xid8 order by ${c.xid}, ${c.seq} limit $3)
      union all
      (select ${columns} from ${table} where ${c.xid} = any($2::xid8[]) order by ${c.seq} + 0 limit $3)
    ) w order by w.seq`
  const low = `select pg_current_snapshot()::text as target, min(${c.seq} + 0) as low from ${table} where ${c.xid} >= $1::xid8`
  const next = `select ${names} from (
      (select ${columns} from ${table}
        where ${c.seq} > greatest($5::bigint, $7::bigint - 1) and ${c.xid} >= $1::xid8
          and pg_visible_in_snapshot(${c.xid}, $6::pg_snapshot)
        order by ${c.seq} limit $3)
      union all
      (select ${columns} from ${table}
        where ${c.seq} + 0 > $5::bigint and ${c.xid} = any($2::xid8[])
          and pg_visible_in_snapshot(${c.xid}, $6::pg_snapshot)
        order by ${c.seq} + 0 limit $3)
    ) w order by w.seq limit $3`
  // COPY takes no parameters; these are numbers and snapshots that Postgres itself has printed.
  const copyNext = (values: { [n in 1 | 2 | 3 | 4 | 5 | 6 | 7]: string }) =>
    `copy (${next.replace(/\$([1-7])/g, (_, n: '1') => `'${values[n]}'`)}) to stdout (format binary)`

  const exact = `select ${names} from (select ${rowColumns(source, maxDataBytes, 'true')} from ${table} where ${c.seq} = any($1::bigint[])) w order by w.seq`

  let bounds: Bounds | undefined

  const send = (name: string, text: string, values: unknown[]) => sendForText(connection, name, text, values)
  const readNext = async (
    position: Position,
    window: Bounds,
    limit: number,
    withData: boolean,
  ): Promise<Page> => {
    const { xmax, xip } = parseSnapshot(position.done)
    const values = [xmax, xip, limit + 1, withData, position.afterSeq, window.target, window.low]
    const rows = await send(`outbox_next_${source.service}`, next, values)
    const more = rows.length > limit
    if (more) rows.pop()
    const last = rows.at(-1)
    return {
      rows: rows.map(toRow),
      more,
      after:
        more && last
          ? { ...position, target: window.target, afterSeq: BigInt(last[0]!) }
          : { ...position, done: window.target, target: null, afterSeq: 0n },
    }
  }

  /** What is new, when it is no more than a page; `backlog` when it is more. */
  const readNew = async (
    position: Position,
    limit: number,
    withData: boolean,
  ): Promise<Page | 'backlog' | undefined> => {
    const { xmax, xip } = parseSnapshot(position.done)
    const rows = await send(`outbox_probe_${source.service}`, probe, [xmax, xip, limit + 1, withData])
    if (rows.length === 0) return undefined
    if (rows.length > limit) return 'backlog'
    const after = { ...position, done: rows[0]![10]!, target: null, afterSeq: 0n }
    return { rows: rows.map(toRow), after, more: false }
  }
  /** The window that a backlog is read through by seq. */
  const windowOf = async (position: Position): Promise<Bounds> => {
    if (position.target === null || bounds?.target !== position.target) {
      const { xmax } = parseSnapshot(position.done)
      const [[target, lowest]] = (await send(`outbox_low_${source.service}`, low, [xmax])) as [
        [string, string | null],
      ]
      bounds = { target: position.target ?? target, low: BigInt(lowest ?? 0) }
    }
    return bounds
  }
  async function* streamNext(
    position: Position,
    { target, low: lowest }: Bounds,
    { pageRows, rows: limit }: { pageRows: number; rows: number },
  ): AsyncGenerator<Page> {
    const { xmax, xip } = parseSnapshot(position.done)
    const values = [xmax, `{${xip}}`, `${limit}`, 'true', `${position.afterSeq}`, target, `${lowest}`]
    const sql = copyNext(
      Object.fromEntries(values.map((value, i) => [i + 1, value])) as Parameters<typeof copyNext>[0],
    )
    const within = (rows: OutboxRow[]) => ({
      rows,
      more: true,
      after: { ...position, target, afterSeq: BigInt(rows.at(-1)?.seq ?? position.afterSeq) },
    })
    // A page is handed on when it is known whether another follows.
    let last: OutboxRow[] = []
    let read = 0
    for await (const { bytes, starts } of connection.copyOut(sql, { batchRows: pageRows })) {
      if (last.length > 0) yield within(last)
      last = starts.map((start) => new CopiedRow(bytes, start))
      read += last.length
    }
    if (read === limit) yield within(last)
    else yield { rows: last, more: false, after: { ...position, done: target, target: null, afterSeq: 0n } }
  }

  return {
    async read(position, limit, { headOnly = false } = {}) {
      if (position.target === null) {
        const page = await readNew(position, limit, !headOnly)
        if (page !== 'backlog') return page
      }
      return readNext(position, await windowOf(position), limit, !headOnly)
    },
    async *pages(position, limits) {
      if (position.target === null) {
        const page = await readNew(position, limits.pageRows, true)
        if (page === undefined) return
        if (page !== 'backlog') return yield page
      }
      yield* streamNext(position, await windowOf(position), limits)
    },
    async fill(page) {
      const rows = await send(`outbox_exact_${source.service}`, exact, [page.rows.map(({ seq }) => seq)])
      return { ...page, rows: rows.map(toRow) }
    },
  }
}

/** Splits `xmin:xmax:xip,…`; numbers stay text, since a full transaction id does not fit a double. */
export function parseSnapshot(snapshot: string): { xmin: string; xmax: string; xip: string[] } {
  const [xmin = '3', xmax = '3', list = ''] = snapshot.split(':')
  return { xmin, xmax, xip: list === '' ? [] : list.split(',') }
}

/** What `toRow` reads of the rows `w`, in its order: all of it text. */
export const ROW_NAMES =
  'w.seq::text as seq, id, tenant_id, aggregate_type, aggregate_id, type, occurred_at, data, headers, subject'

/** Select list of an outbox row; without data where `withData` (SQL) is false, or where it is larger than may be read. */
export function rowColumns({ column: c }: OutboxSource, maxDataBytes: number, withData: string): string {
  return `${c.seq} as seq, ${c.id}::text as id, ${c.tenant_id}::text as tenant_id,
    ${c.aggregate_type}::text as aggregate_type, ${c.aggregate_id}::text as aggregate_id, ${c.type}::text as type,
    case when ${withData} and pg_column_size(${c.data}) <= ${Math.floor(maxDataBytes)} then ${c.data}::text end as data,
    ${c.headers}::text as headers, ${c.subject}::text as subject, ${c.occurred_at}::timestamptz::text as occurred_at`
}

/**
 * Sets a reader's connection up. Its index scans are right at any size; the planner, left alone, turns to sorts and
 * sequential scans once the table has grown, at a thirtieth of the rate.
 */
export async function pinPlans(connection: Connection): Promise<void> {
  for (const [setting, value] of [
    ['plan_cache_mode', 'force_generic_plan'],
    ['enable_sort', 'off'],
    ['enable_seqscan', 'off'],
    ['enable_bitmapscan', 'off'],
    ['jit', 'off'],
    ['timezone', 'UTC'],
  ]) {
    await connection.query('select set_config($1, $2, false)', [setting, value])
  }
}

/** Sends a prepared statement and returns its rows as Postgres prints them, column by column. */
export async function sendForText(
  connection: Connection,
  name: string,
  text: string,
  values: unknown[],
): Promise<string[][]> {
  const result = await connection.raw.query({ name, text, values, rowMode: 'array', types: asText })
  return result.rows as unknown as string[][]
}

const asText: pg.CustomTypesConfig = { getTypeParser: (() => (text: string) => text) as never }

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
