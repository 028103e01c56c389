import type pg from 'pg'
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
  /** JSON text; null when the value is so large that it was not even read. */
  data: string | null
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
    ) w order by seq`
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
    ) w order by seq limit $3`

  const exact = `select ${names} from (select ${rowColumns(source, maxDataBytes, 'true')} from ${table} where ${c.seq} = any($1::bigint[])) w order by seq`

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

  return {
    async read(position, limit, { headOnly = false } = {}) {
      const { xmax, xip } = parseSnapshot(position.done)
      if (position.target === null) {
        const rows = await send(`outbox_probe_${source.service}`, probe, [xmax, xip, limit + 1, !headOnly])
        if (rows.length === 0) return undefined
        if (rows.length <= limit) {
          const after = { ...position, done: rows[0]![10]!, target: null, afterSeq: 0n }
          return { rows: rows.map(toRow), after, more: false }
        }
      }
      // A backlog: fix the window and page through it by seq.
      if (position.target === null || bounds?.target !== position.target) {
        const [[target, lowest]] = (await send(`outbox_low_${source.service}`, low, [xmax])) as [
          [string, string | null],
        ]
        bounds = { target: position.target ?? target, low: BigInt(lowest ?? 0) }
      }
      return readNext(position, bounds, limit, !headOnly)
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

/** What `toRow` reads, in its order. */
export const ROW_NAMES =
  'seq, id, tenant_id, aggregate_type, aggregate_id, type, data, headers, subject, occurred_at'

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
    ['synchronous_commit', 'off'],
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

export function toRow(row: string[]): OutboxRow {
  return {
    seq: row[0]!,
    id: row[1]!,
    tenantId: row[2]!,
    aggregateType: row[3]!,
    aggregateId: row[4]!,
    type: row[5]!,
    data: row[6] ?? null,
    headers: row[7] ?? null,
    subject: row[8] ?? null,
    occurredAt: row[9]!,
  }
}
