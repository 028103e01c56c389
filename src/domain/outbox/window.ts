import type pg from 'pg'
import type { Connection } from '../../adapters/postgres/client.ts'
import { lowsOf, type Position, parseSnapshot } from './position.ts'
import { CopiedRow, type OutboxRow, ROW_NAMES, ROW_WIDTH, rowColumns, toRow } from './row.ts'
import { lateRows, type OutboxSource, youngOrder, youngRows } from './source.ts'

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
 *
 * Rows are sought by number. A mark is a number that had been drawn when a transaction id was given out: whatever has a
 * higher id draws higher numbers. So what is younger than a snapshot lies above the last mark before that, and what
 * was open in it above the mark before the snapshot in which it was first met.
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

type NextValue = 'xmax' | 'target' | 'low' | 'late' | 'afterSeq' | 'limit' | 'withData'

interface Bounds {
  target: string
  /** Rows of transactions younger than `done` have higher numbers: the ordered scan starts here. */
  low: string
  /** Transactions that were open in `done` and had ended in `target`; the least and the highest number of each. */
  late: string[][]
}

// How many numbers may be drawn before the mark is set anew: what was written since is passed by at each look for new rows,
// that of transactions still at work included.
const MARK_EVERY = 256

/**
 * `connection` is the reader's own: its planner settings are changed. `maxDataBytes` bounds what is read of one row;
 * larger values come as null (the size is the stored one, compressed, so that looking costs nothing).
 */
export async function openWindowReader(
  connection: Connection,
  source: OutboxSource,
  { maxDataBytes, markEvery = MARK_EVERY }: { maxDataBytes: number; markEvery?: number },
): Promise<WindowReader> {
  await pinPlans(connection)
  const { table, column: c, service } = source
  const columns = rowColumns(source, maxDataBytes, '$4::bool')

  // Read under the lock of the sequence's page. Its row, selected, may for a moment have the number up to which the log
  // is ahead, which nobody has drawn.
  const drawn = source.numbers ? `coalesce(pg_sequence_last_value('${source.numbers}'), 0)` : '0::bigint'
  // Young rows by their index order, late ones by lookup: both without a sort of the whole backlog. `seq + 0` keeps
  // the late rows off the order of the index, which would be walked to its end to find a handful.
  const youngOnes = `select ${columns} from ${table} where ${youngRows(source, '$1', '$2')}
    order by ${youngOrder(source)} limit $3`
  const lateOnes = `${lateRows(source, columns, { xip: '$5', lows: '$6', floor: '$2' })} order by ${c.seq} + 0 limit $3`
  const probeOf = (rows: string) => `select ${ROW_NAMES}, now.target, now.high
    from (select pg_current_snapshot()::text as target, ${drawn} as high) now left join (${rows}) w on true order by w.seq`
  const probe = probeOf(youngOnes)
  const probeLate = probeOf(`(${youngOnes}) union all (${lateOnes})`)
  const markNow = `select high, pg_current_xact_id() from (select ${drawn} as high offset 0) before`
  const now = 'select pg_current_snapshot()::text'
  const lowest = `select coalesce(min(${c.seq} + 0) - 1, 0) from ${table} where ${c.xid} >= $1::xid8`
  const lateOf = `select ${c.xid}::text, min(${c.seq} + 0), max(${c.seq} + 0)
    from (${lateRows(source, `${c.seq}, ${c.xid}`, { xip: '$1', lows: '$2', floor: '$3' })}) late
    where pg_visible_in_snapshot(${c.xid}, $4::pg_snapshot) group by ${c.xid}`
  /** What of a window comes after a number; each value as SQL. */
  const next = ({ xmax, target, low, late, afterSeq, limit, withData }: Record<NextValue, string>) => {
    const columns = rowColumns(source, maxDataBytes, `${withData}::bool`)
    return `select ${ROW_NAMES} from (
      (select ${columns} from ${table}
        where ${c.seq} > greatest(${afterSeq}::bigint, ${low}::bigint) and ${c.xid} >= ${xmax}::xid8
          and pg_visible_in_snapshot(${c.xid}, ${target}::pg_snapshot)
        order by ${c.seq} limit ${limit})
      union all
      (select row_of.* from unnest(${late}) late (late_xid, late_first, late_last) cross join lateral (
          select ${columns} from ${table} where ${c.xid} = late_xid
            and ${c.seq} between greatest(${afterSeq}::bigint + 1, late_first) and late_last offset 0
        ) row_of
        order by row_of.seq + 0 limit ${limit})
    ) w order by w.seq limit ${limit}`
  }
  const prepared = next({
    xmax: '$1',
    target: '$2',
    low: '$3',
    late: '$4::xid8[], $5::bigint[], $6::bigint[]',
    afterSeq: '$7',
    limit: '$8',
    withData: '$9',
  })
  const exact = `select ${ROW_NAMES} from (select ${rowColumns(source, maxDataBytes, 'true')} from ${table} where ${c.seq} = any($1::bigint[])) w order by w.seq`

  const send = (name: string, text: string, values: unknown[]) =>
    sendForText(connection, `outbox_${name}_${service}`, text, values)

  /** Transactions above `xid` began when the number `high` had been drawn: their rows lie above it. */
  let mark: { xid: bigint; high: bigint } | undefined
  /** The highest number drawn, as of the last look. */
  let highest = 0n
  let bounds: Bounds | undefined
  /** A position, and what stands for it: one further on, with nothing new between, or one that knows less and is safe. */
  let ahead: { of: Position; is: Position } | undefined

  const setMark = async (): Promise<void> => {
    if (!source.numbers) return
    const [[high, xid]] = (await send('mark', markNow, [])) as [[string, string]]
    mark = { xid: BigInt(xid), high: BigInt(high) }
  }
  /** The position behind all that is visible in `target`. */
  const past = (from: Position, target: string): Position => {
    const { xmax, xip } = parseSnapshot(target)
    return {
      ...from,
      done: target,
      target: null,
      afterSeq: 0n,
      floor: mark && mark.xid < BigInt(xmax) ? mark.high : from.floor,
      lows: lowsOf(from, xip),
    }
  }
  const furthest = (position: Position): Position => (ahead?.of === position ? ahead.is : position)

  const readNext = async (
    position: Position,
    { target, low, late }: Bounds,
    limit: number,
    withData: boolean,
  ): Promise<Page> => {
    const { xmax } = parseSnapshot(position.done)
    const values = [xmax, target, low, ...late, position.afterSeq, limit + 1, withData]
    const rows = await send('next', prepared, values)
    const more = rows.length > limit
    if (more) rows.pop()
    const last = rows.at(-1)
    return {
      rows: rows.map(toRow),
      more,
      after: more && last ? { ...position, target, afterSeq: BigInt(last[0]!) } : past(position, target),
    }
  }

  /** What is new, when it is no more than a page; `backlog` when it is more. */
  const readNew = async (
    position: Position,
    limit: number,
    withData: boolean,
  ): Promise<Page | 'backlog' | undefined> => {
    if (!mark || highest - mark.high >= markEvery) await setMark()
    const from = furthest(position)
    const { xmax, xip } = parseSnapshot(from.done)
    const values = [xmax, from.floor, limit + 1, withData]
    // Each scan of every day's partition is some time of every look; mostly nothing was open.
    const rows = await (xip.length === 0
      ? send('probe', probe, values)
      : send('probe_late', probeLate, [...values, xip, from.lows]))
    const [target, high] = rows[0]!.slice(ROW_WIDTH) as [string, string]
    highest = BigInt(high)
    if (highest < from.floor) {
      // Somebody has set the numbers back: what was drawn since can be anywhere.
      mark = undefined
      ahead = { of: position, is: { ...from, floor: 0n, lows: [] } }
      return readNew(position, limit, withData)
    }
    const after = past(from, target)
    if (rows[0]![0] === null) {
      ahead = { of: position, is: after }
      return undefined
    }
    if (rows.length > limit) return 'backlog'
    return { rows: rows.map(toRow), after, more: false }
  }
  /** The window that a backlog is read through by seq. */
  const windowOf = async (position: Position): Promise<Bounds> => {
    if (position.target !== null && bounds?.target === position.target) return bounds
    if (position.target === null) await setMark()
    const { xmax, xip } = parseSnapshot(position.done)
    const target = position.target ?? (await send('now', now, []))[0]![0]!
    const low = source.numbers ? `${position.floor}` : (await send('lowest', lowest, [xmax]))[0]![0]!
    const late =
      xip.length === 0 ? [] : await send('late', lateOf, [xip, position.lows, position.floor, target])
    bounds = { target, low, late: [0, 1, 2].map((i) => late.map((row) => row[i]!)) }
    return bounds
  }
  async function* streamNext(
    position: Position,
    { target, low, late }: Bounds,
    { pageRows, rows: limit }: { pageRows: number; rows: number },
  ): AsyncGenerator<Page> {
    // COPY takes no parameters; these are numbers and snapshots that Postgres itself has printed.
    const sql = next({
      xmax: `'${parseSnapshot(position.done).xmax}'`,
      target: `'${target}'`,
      low,
      late: `'{${late[0]}}'::xid8[], '{${late[1]}}'::bigint[], '{${late[2]}}'::bigint[]`,
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
    else yield { rows: last, more: false, after: past(position, target) }
  }

  return {
    async read(position, limit, { headOnly = false } = {}) {
      if (position.target === null) {
        const page = await readNew(position, limit, !headOnly)
        if (page !== 'backlog') return page
      }
      const from = furthest(position)
      return readNext(from, await windowOf(from), limit, !headOnly)
    },
    async *pages(position, limits) {
      if (position.target === null) {
        const page = await readNew(position, limits.pageRows, true)
        if (page === undefined) return
        if (page !== 'backlog') return yield page
      }
      const from = furthest(position)
      yield* streamNext(from, await windowOf(from), limits)
    },
    async fill(page) {
      const rows = await send('exact', exact, [page.rows.map(({ seq }) => seq)])
      return { ...page, rows: rows.map(toRow) }
    },
  }
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
