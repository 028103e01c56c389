import type { Connection } from '../../adapters/postgres/client.ts'
import { type Gap, type Position, parseSnapshot } from './position.ts'
import { ROW_NAMES, ROW_WIDTH, rowColumns, toRow } from './row.ts'
import type { OutboxSource } from './source.ts'
import { type Page, pinPlans, sendForText, type WindowReader } from './window.ts'

/** How long a gap is watched at least, however early every transaction that might fill it seems to have ended. */
const GAP_AGE_MS = 5_000

/**
 * Reads a mapped outbox that has no transaction ids, by its numbers: everything above the highest number seen, and the
 * numbers below it that were missing. A missing number belongs to a transaction that is still open, or was rolled back;
 * it is given up once every transaction that was open when it was missed has ended, twice: a number can be drawn just
 * before its transaction gets an id.
 *
 * Right only where a transaction draws its numbers while it inserts (identity or serial, no cache). An application that
 * draws them in blocks and uses them later (hi/lo) would lose events.
 */
export async function openGapReader(
  connection: Connection,
  source: OutboxSource,
  { maxDataBytes }: { maxDataBytes: number },
): Promise<WindowReader> {
  await pinPlans(connection)
  const { table, column: c, service } = source
  const columns = rowColumns(source, maxDataBytes, '$3::bool')
  const next = `select ${ROW_NAMES}, (select pg_current_snapshot()::text) as snapshot from (
      (select ${columns} from ${table} where ${c.seq} > $1::bigint order by ${c.seq} limit $2)
      union all
      (select ${columns} from unnest($4::bigint[], $5::bigint[]) as gap (low, high)
        join ${table} on ${c.seq} between gap.low and gap.high
        order by ${c.seq} + 0 limit $2)
    ) w order by w.seq`
  const exact = `select ${ROW_NAMES} from (select ${rowColumns(source, maxDataBytes, 'true')} from ${table} where ${c.seq} = any($1::bigint[])) w order by w.seq`

  const reader: WindowReader = {
    async *pages(position, { pageRows, rows }) {
      let page = await reader.read(position, pageRows)
      for (let read = page?.rows.length ?? 0; page; read += page?.rows.length ?? 0) {
        const following = page.more && read < rows ? reader.read(page.after, pageRows) : undefined
        // Whoever takes no more pages asks no more for this one.
        following?.catch(() => {})
        yield page
        page = await following
      }
    },
    async read(position, limit, { headOnly = false } = {}) {
      const values = [
        position.afterSeq,
        limit + 1,
        !headOnly,
        position.gaps.map(({ low }) => low),
        position.gaps.map(({ high }) => high),
      ]
      const found = await sendForText(connection, `outbox_gap_${service}`, next, values)
      if (found.length === 0) return undefined
      const more = found.length > limit
      const rows = found.slice(0, limit)
      return {
        rows: rows.map(toRow),
        more,
        after: advance(
          position,
          rows.map(([seq]) => BigInt(seq!)),
          rows[0]![ROW_WIDTH]!,
          { now: Date.now(), whole: !more },
        ),
      } satisfies Page
    },
    async fill(page) {
      const rows = await sendForText(connection, `outbox_exact_${service}`, exact, [
        page.rows.map(({ seq }) => seq),
      ])
      return { ...page, rows: rows.map(toRow) }
    },
  }
  return reader
}

/**
 * The position once the rows, the next ones by number, are published: filled gaps go, new ones come. Unless the rows
 * are all that there was (`whole`), gaps do not age: what fills them may wait behind this page.
 */
export function advance(
  position: Position,
  seqs: bigint[],
  snapshot: string,
  { now, whole }: { now: number; whole: boolean },
): Position {
  const { xmin, xmax } = parseSnapshot(snapshot)
  const kept = position.gaps
    .flatMap((gap) => (whole ? aged(gap, { xmin, xmax, now }) : [gap]))
    .flatMap((gap) => without(gap, seqs))
  const fresh: Gap[] = []
  let high = position.afterSeq
  for (const seq of seqs) {
    if (seq <= high) continue
    if (seq > high + 1n)
      fresh.push({ low: high + 1n, high: seq - 1n, since: xmax, at: now, confirmed: false })
    high = seq
  }
  return { ...position, done: snapshot, afterSeq: high, gaps: [...kept, ...fresh] }
}

/** Nothing when the gap is dead; else the gap, which has to prove it a second time from now on if it was the first. */
function aged(gap: Gap, { xmin, xmax, now }: { xmin: string; xmax: string; now: number }): Gap[] {
  if (BigInt(xmin) <= BigInt(gap.since) || now - gap.at < GAP_AGE_MS) return [gap]
  return gap.confirmed ? [] : [{ ...gap, since: xmax, at: now, confirmed: true }]
}

/** What is left of a gap when some of its numbers have come. */
function without(gap: Gap, seqs: bigint[]): Gap[] {
  const left: Gap[] = []
  let { low } = gap
  for (const seq of seqs) {
    if (seq < low || seq > gap.high) continue
    if (seq > low) left.push({ ...gap, low, high: seq - 1n })
    low = seq + 1n
  }
  return low > gap.high ? left : [...left, { ...gap, low }]
}
