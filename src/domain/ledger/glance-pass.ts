import type { Connection } from '../../adapters/postgres/client.ts'
import { parseSnapshot } from '../outbox/position.ts'
import { changedStretches, type Place, tenantsOf } from './digest.ts'
import {
  Doubt,
  type Glance,
  glanceAtEntries,
  glanceAtTransactions,
  newGlance,
  type TransactionsGlance,
} from './glance.ts'
import { glanceOverAccounts, type Look } from './glance-accounts.ts'
import { formatStretch, formatTransactions, type Seal, sealedStretches, sealLines } from './seal.ts'
import { changedTransactions } from './sealed-transactions.ts'
import {
  isWhole,
  NIL,
  NUMERIC_VALUE_OUT_OF_RANGE,
  type PassOptions,
  type Sighting,
  seenBy,
  TRANSACTIONS_A_BLOCK,
  type Turn,
  turnOf,
} from './sighting.ts'

const PARTS_A_PAGE = 2
const SAME_MOMENT_MS = 1_000
/**
 * Looks at the whole ledger by sums alone, and writes the next seal. Undefined where anything is in doubt: then nothing of what
 * was written holds.
 */
export async function glanceOver(
  connection: Connection,
  options: PassOptions & { last: Seal },
  sighting: Sighting,
): Promise<Sighting | undefined> {
  await connection.query('savepoint glance')
  const glance = newGlance(options.last)
  const turn = turnOf(options)
  try {
    const posted = await glanceOverTransactions(connection, options, sighting, turn, glance)
    const entered = await glanceOverEntries(connection, options, { sighting, turn, glance }, posted)
    const grown = await glanceOverAccounts(connection, options, { sighting, turn, glance })
    if (entered.marks !== posted.marks || entered.weight % glance.prime !== 0n) return undefined
    return entered.entries === grown.entries && entered.steps === grown.steps ? sighting : undefined
  } catch (error) {
    if (error instanceof Doubt) return undefined
    // Amounts that no post could have made.
    if ((error as { code?: string }).code !== NUMERIC_VALUE_OUT_OF_RANGE) throw error
    await connection.query('rollback to savepoint glance')
    return undefined
  }
}

/** What was seen of new transactions. */
interface Posted {
  marks: bigint
  /** From when to when they were posted. */
  pages: Pick<TransactionsGlance, 'first' | 'last'>[]
}

async function glanceOverTransactions(
  connection: Connection,
  options: PassOptions & { last: Seal },
  sighting: Sighting,
  turn: Turn,
  glance: Glance,
): Promise<Posted> {
  const { last, writer, signal } = options
  for await (const _ of changedTransactions(connection, options, sighting, turn)) throw new Doubt()
  // What did not hold is looked at closely until it does.
  for await (const _ of sealLines(last.path, 's')) throw new Doubt()

  const posted: Posted = { marks: 0n, pages: [] }
  const window = { since: seenBy(last), until: sighting.snapshot }
  for (let after: Place = { xid: parseSnapshot(window.since).xmin, id: NIL }; ; ) {
    signal?.throwIfAborted()
    const page = await glanceAtTransactions(connection, after, window, glance, TRANSACTIONS_A_BLOCK)
    if (page === undefined) break
    const { count, digest, place, marks } = page
    if (page.misdated) throw new Doubt()
    sighting.transactions += count
    posted.marks += marks
    posted.pages.push(page)
    await writer?.write(formatTransactions({ ...window, ...place, count, digest }))
    after = place.to
  }
  // What the snapshot shows is over: who says that its transaction is yet to come would be in no window for long.
  const early = await connection.query(
    'select from billing.journal_transaction where xid >= pg_snapshot_xmax($1::pg_snapshot) limit 1',
    [sighting.snapshot],
  )
  if (early.length > 0) throw new Doubt()
  return posted
}

/** New entries in the order of posting, and those that were sealed so. */
async function glanceOverEntries(
  connection: Connection,
  { last, scope, writer, signal }: PassOptions & { last: Seal },
  { sighting, turn, glance }: Look,
  { pages }: Posted,
): Promise<{ entries: number; marks: bigint; weight: bigint; steps: bigint }> {
  const sealed = await sealedStretches(last)
  if (!scope.quick && (await changedStretches(connection, sealed, signal)).length > 0) throw new Doubt()
  const loose = isWhole(turn) ? undefined : writer
  for (const stretch of sealed) {
    if (stretch.look > (last.compacted ?? 0)) await loose?.write(formatStretch(stretch))
  }
  const sums = { entries: 0, marks: 0n, weight: 0n, steps: 0n }
  const tenantIds = await tenantsOf(connection)
  const times = boundaries(pages)
  for (const [i, from] of times.slice(0, -1).entries()) {
    signal?.throwIfAborted()
    const stretch = { since: seenBy(last), until: sighting.snapshot, from, to: times[i + 1]! }
    const seen = await glanceAtEntries(connection, stretch, tenantIds, glance)
    sums.entries += seen.count
    sums.marks += seen.marks
    sums.weight += seen.weight
    sums.steps += seen.steps
    if (seen.count > 0) await loose?.write(formatStretch({ ...stretch, ...seen, look: turn.next }))
  }
  sighting.newEntries = sums.entries
  // What was sealed is there still, or something else does not agree.
  sighting.entries = last.entries + sums.entries
  return sums
}

/** Times between which there are the transactions of a part of a page or two, from before the first to behind the last. */
function boundaries(pages: Posted['pages']): Date[] {
  if (pages.length === 0) return []
  // What an id and a row say of the time differs by the time between them.
  const starts = pages.map(({ first }) => first.getTime() - SAME_MOMENT_MS).sort((one, other) => one - other)
  starts.push(Math.max(...pages.map(({ last }) => last.getTime())) + SAME_MOMENT_MS)
  const parts = starts.flatMap((start, i) =>
    i + 1 === starts.length
      ? [start]
      : Array.from({ length: PARTS_A_PAGE }, (_, n) =>
          Math.floor(start + ((starts[i + 1]! - start) * n) / PARTS_A_PAGE),
        ),
  )
  return parts.map((time) => new Date(time))
}
