import type pg from 'pg'
import type { Connection } from '../../adapters/postgres/client.ts'
import type { Position } from './position.ts'
import { CopiedRow, type OutboxRow, ROW_NAMES, rowColumns, toRow } from './row.ts'
import type { OutboxSource } from './source.ts'

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
   * `data` and `headers` is null: to learn which event comes next without touching it.
   */
  read(position: Position, limit: number, options?: { headOnly?: boolean }): Promise<Page | undefined>
  /** The same page with its data: rows that were committed meanwhile are not in it. */
  fill(page: Page): Promise<Page>
}

type NextValue = 'xmax' | 'xip' | 'target' | 'low' | 'afterSeq' | 'limit' | 'withData'

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

  // Young rows by their index order, late ones by lookup: both without a sort of the whole backlog. `seq + 0` keeps
  // the late rows off the seq index, which would be walked to its end to find a handful.
  const probe = `select ${ROW_NAMES}, (select pg_current_snapshot()::text) as target from (
      (select ${columns} from ${table} where ${c.xid} >= $1::xid8 order by ${c.xid}, ${c.seq} limit $3)
      union all
      (select ${columns} from ${table} where ${c.xid} = any($2::xid8[]) order by ${c.seq} + 0 limit $3)
    ) w order by w.seq`
  const low = `select pg_current_snapshot()::text as target, min(${c.seq} + 0) as low from ${table} where ${c.xid} >= $1::xid8`
  /** What of a window comes after a number; each value as SQL. */
  const next = ({ xmax, xip, target, low, afterSeq, limit, withData }: Record<NextValue, string>) => {
    const columns = rowColumns(source, maxDataBytes, `${withData}::bool`)
    return `select ${ROW_NAMES} from (
      (select ${columns} from ${table}
        where ${c.seq} > greatest(${afterSeq}::bigint, ${low}::bigint - 1) and ${c.xid} >= ${xmax}::xid8
          and pg_visible_in_snapshot(${c.xid}, ${target}::pg_snapshot)
        order by ${c.seq} limit ${limit})
      union all
      (select ${columns} from ${table}
        where ${c.seq} + 0 > ${afterSeq}::bigint and ${c.xid} = any(${xip}::xid8[])
          and pg_visible_in_snapshot(${c.xid}, ${target}::pg_snapshot)
        order by ${c.seq} + 0 limit ${limit})
    ) w order by w.seq limit ${limit}`
  }
  const prepared = next({
    xmax: '$1',
    xip: '$2',
    target: '$3',
    low: '$4',
    afterSeq: '$5',
    limit: '$6',
    withData: '$7',
  })
  const exact = `select ${ROW_NAMES} from (select ${rowColumns(source, maxDataBytes, 'true')} from ${table} where ${c.seq} = any($1::bigint[])) w order by w.seq`

  let bounds: Bounds | undefined

  const send = (name: string, text: string, values: unknown[]) => sendForText(connection, name, text, values)
  const readNext = async (
    position: Position,
    window: Bounds,
    limit: number,
    withData: boolean,
  ): Promise<Page> => {
    const { xmax, xip } = parseSnapshot(position.done)
    const values = [xmax, xip, window.target, window.low, position.afterSeq, limit + 1, withData]
    const rows = await send(`outbox_next_${source.service}`, prepared, values)
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
    // COPY takes no parameters; these are numbers and snapshots that Postgres itself has printed.
    const sql = next({
      xmax: `'${xmax}'`,
      xip: `'{${xip}}'`,
      target: `'${target}'`,
      low: `${lowest}`,
      afterSeq: `${position.afterSeq}`,
      limit: `${limit}`,
      withData: 'true',
    })
    const within = (rows: OutboxRow[]) => ({
      rows,
      more: true,
      after: { ...position, target, afterSeq: BigInt(rows.at(-1)?.seq ?? position.afterSeq) },
    })
    // A page is handed on when it is known whether another follows.
    let last: OutboxRow[] = []
    let read = 0
    for await (const { bytes, starts } of connection.copyOut(`copy (${sql}) to stdout (format binary)`, {
      batchRows: pageRows,
    })) {
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
