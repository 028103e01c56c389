import type { Connection } from '../../adapters/postgres/client.ts'
import { parseSnapshot } from '../outbox/window.ts'
import {
  changedBlocks,
  changedSpans,
  changedStretches,
  NO_END,
  Pace,
  type Place,
  readDigests,
  rowsOf,
  sealedSpans,
  tailSpans,
  tenantsOf,
} from './digest.ts'
import {
  type AccountRange,
  type AccountsNow,
  areAsSealed,
  type Glance,
  type Grown,
  type Growth,
  glanceAtEntries,
  glanceAtGrowth,
  glanceAtTransactions,
  newGlance,
  readAccounts,
  readFigures,
  type TransactionsGlance,
} from './glance.ts'
import {
  type AccountPage,
  accountsOf,
  formatStretch,
  formatTransactions,
  pageOf,
  parseTransactions,
  type Seal,
  type SealedAccount,
  type SealedTransactions,
  sealedAccounts,
  sealedStretches,
  sealLines,
} from './seal.ts'
import {
  AccountBook,
  isCurrency,
  isDue,
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

const PARTS_A_PAGE = 4
const SAME_MOMENT_MS = 1_000
/** One more than a page has, so that what is too much shows. */
const ACCOUNTS_AT_ONCE = 1_001

/** Thrown where sums do not agree, or anything else wants a closer look. */
class Doubt extends Error {}

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
  { last, writer, signal }: PassOptions & { last: Seal },
  sighting: Sighting,
  turn: Turn,
  glance: Glance,
): Promise<Posted> {
  let nth = 0
  for await (const lines of sealLines(last.path, 't')) {
    const due: SealedTransactions[] = []
    for (const line of lines) {
      await writer?.write(line)
      const block = parseTransactions(line)
      sighting.transactions += block.count
      if (nth++ % turn.of === turn.now) due.push(block)
    }
    if ((await changedBlocks(connection, due, signal)).length > 0) throw new Doubt()
  }
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

interface Look {
  sighting: Sighting
  turn: Turn
  glance: Glance
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

/** Every account against its seal, page by page; what is due with its entries. */
async function glanceOverAccounts(
  connection: Connection,
  { last, scope, writer, signal }: PassOptions & { last: Seal },
  { sighting, turn, glance }: Look,
): Promise<{ entries: number; steps: bigint }> {
  const book = new AccountBook(writer)
  const pace = new Pace()
  const sum = { entries: 0, steps: 0n }
  const add = ({ shrunk, entries, steps }: Grown) => {
    if (shrunk) throw new Doubt()
    sum.entries += entries
    sum.steps += steps
  }
  const grow = async (growth: Growth) => add(await glanceAtGrowth(connection, growth, glance))
  /** Some accounts as they are now, one by one, against those sealed of them. */
  const takeApart = async (tenantId: string, now: AccountsNow, sealed: SealedAccount[], due: boolean) => {
    if (now.count === 0 && sealed.length === 0) return
    sighting.accounts += now.count
    const accounts = accountsOf({ tenantId, compacted: 0, tos: zeros(now), digests: blanks(now), ...now })
    const byId = new Map(sealed.map((account) => [account.accountId, account]))
    const before: SealedAccount[] = []
    for (const account of accounts) {
      const was = byId.get(account.accountId)
      byId.delete(account.accountId)
      if (!isCurrency(account.currency) || (was && !isTheSame(account, was))) throw new Doubt()
      account.blocks = was?.blocks ?? []
      account.compacted = was?.compacted ?? turn.next - 1
      before.push(was ?? { ...account, seq: 0n, balanceMinor: 0n })
    }
    // Gone, or moved.
    if (byId.size > 0) throw new Doubt()
    if (accounts.length > 0) await grow(growthBetween(pageOf(before), now))
    if (due) sighting.sealedEntries += await compact(connection, accounts, before, turn, pace)
    for (const account of accounts) await book.add(account)
  }
  /** Accounts behind one, up to another or the end of their tenant, which are new but for `sealed`. */
  const takeRange = async (place: AccountRange, sealed: SealedAccount[] = [], due = isWhole(turn)) => {
    let left = sealed
    for (let { after } = place; ; ) {
      signal?.throwIfAborted()
      const now = await readAccounts(connection, { ...place, after }, ACCOUNTS_AT_ONCE)
      const end = now.ids.slice(-NIL.length)
      const more = now.count === ACCOUNTS_AT_ONCE
      const theirs = more ? left.filter(({ accountId }) => accountId <= end) : left
      left = left.slice(theirs.length)
      await takeApart(place.tenantId, now, theirs, due)
      if (!more) return
      after = end
    }
  }

  const tenantIds = await tenantsOf(connection)
  let nth = 0
  let at: { tenantId: string; after: string } | undefined
  /** Neighbours of one tenant that are in no page. */
  let single: SealedAccount[] = []
  const takeSingle = async () => {
    if (single.length === 0) return
    const upTo = single.at(-1)!.accountId
    const least = Math.min(...single.map(({ compacted }) => compacted))
    await takeRange({ ...at!, upTo }, single, isDue(turn, nth++, least))
    at!.after = upTo
    single = []
  }
  const leave = async () => {
    await takeSingle()
    if (at) await takeRange(at)
  }
  for await (const sealed of sealedAccounts(last)) {
    signal?.throwIfAborted()
    const { tenantId } = sealed
    if (at?.tenantId !== tenantId) {
      await leave()
      for (const id of tenantIds.splice(0, tenantIds.indexOf(tenantId) + 1))
        if (id !== tenantId) await takeRange({ tenantId: id, after: NIL })
      at = { tenantId, after: NIL }
    }
    if (!isPage(sealed)) {
      if (sealed.heldAt !== undefined) throw new Doubt()
      single.push(sealed)
      if (single.length === ACCOUNTS_AT_ONCE) await takeSingle()
      continue
    }
    await takeSingle()
    const due = isDue(turn, nth++, sealed.compacted)
    const upTo = sealed.ids.slice(-NIL.length)
    if (scope.quick) {
      const range = { ...at, upTo }
      const now = await readFigures(connection, range, ACCOUNTS_AT_ONCE, sealed, glance)
      if (now.count === countOf(sealed)) {
        add(now)
        sighting.accounts += now.count
        await book.addPage({ ...sealed, seqs: now.seqs, balances: now.balances })
      } else await takeRange(range, accountsOf(sealed))
      at.after = upTo
      continue
    }
    const now = await readPage(connection, { ...at, upTo }, sealed)
    if (now === undefined) {
      await takeRange({ ...at, upTo }, accountsOf(sealed), due)
    } else if (due && !isAtRest(now, sealed)) {
      await takeApart(tenantId, now, accountsOf(sealed), due)
    } else {
      sighting.accounts += now.count
      if (due) {
        sighting.sealedEntries += await readResting(connection, sealed, pace)
        sealed.compacted = turn.looks
      } else if (now.seqs !== sealed.seqs || now.balances !== sealed.balances) {
        await grow(growthBetween(sealed, now))
      }
      await book.addPage({ ...sealed, seqs: now.seqs, balances: now.balances })
    }
    at.after = upTo
  }
  await leave()
  for (const tenantId of tenantIds) await takeRange({ tenantId, after: NIL })
  await book.flush()
  sighting.looks = { looks: turn.looks, compacted: Math.min(book.compacted, turn.next) }
  return sum
}

const isPage = (one: AccountPage | SealedAccount): one is AccountPage => 'ids' in one
const isTheSame = (now: SealedAccount, was: SealedAccount) =>
  now.code === was.code && now.currency === was.currency && now.openingMinor === was.openingMinor
const zeros = ({ count }: AccountsNow) => Array(count).fill('0').join()
const blanks = ({ count }: AccountsNow) => Array(count).fill('').join()

const growthBetween = (sealed: AccountPage, now: Pick<AccountPage, 'seqs' | 'balances'>): Growth => ({
  tenantId: sealed.tenantId,
  ids: sealed.ids,
  currencies: sealed.currencies,
  sealed: { seqs: sealed.seqs, balances: sealed.balances },
  now: { seqs: now.seqs, balances: now.balances },
})

const countOf = ({ ids }: AccountPage) => (ids.length + 1) / (NIL.length + 1)

/** A page's accounts as they are now; undefined where others are there, or are not what they were. */
async function readPage(
  connection: Connection,
  range: AccountRange,
  sealed: AccountPage,
): Promise<AccountsNow | undefined> {
  const plain = !sealed.codes.includes('%')
  const now = await readAccounts(connection, range, ACCOUNTS_AT_ONCE, { plain })
  const facts = ['ids', 'currencies', 'openings', 'codes'] as const
  return facts.every((fact) => now[fact] === sealed[fact]) ? now : undefined
}

/** Nothing was posted to any of them since their blocks were made, and they are in one currency. */
const isAtRest = (now: AccountsNow, sealed: AccountPage) =>
  now.seqs === sealed.seqs &&
  now.balances === sealed.balances &&
  sealed.tos === sealed.seqs &&
  sealed.currencies.replaceAll(`${sealed.currencies.slice(0, 3)},`, '').length === 3

/** Holds a page's entries against their digests, by statements as long as the pace wants them. Returns how many they are. */
async function readResting(connection: Connection, page: AccountPage, pace: Pace): Promise<number> {
  const { tenantId } = page
  const seqs = page.seqs.split(',').map(Number)
  const digests = page.digests.split(',')
  const idOf = (nth: number) => page.ids.slice(nth * (NIL.length + 1), nth * (NIL.length + 1) + NIL.length)
  for (const { items, rows } of pace.slices([...seqs.keys()], (nth) => seqs[nth]!)) {
    const posted = items.filter((nth) => seqs[nth]! > 0)
    const all = posted.length === seqs.length
    const holds = await pace.time(rows, () =>
      areAsSealed(connection, {
        tenantId,
        currency: page.currencies.slice(0, 3),
        first: idOf(items[0]!),
        last: idOf(items.at(-1)!),
        seqs: all ? page.seqs : posted.map((nth) => seqs[nth]).join(),
        digests: all ? page.digests : posted.map((nth) => digests[nth]).join(),
      }),
    )
    if (!holds) throw new Doubt()
  }
  return seqs.reduce((sum, seq) => sum + seq, 0)
}

/** Reads the blocks of accounts again, and gives all their entries one. Returns how many were sealed. */
async function compact(
  connection: Connection,
  accounts: SealedAccount[],
  before: SealedAccount[],
  { looks }: Turn,
  pace: Pace,
): Promise<number> {
  const blocks = accounts.flatMap((account) => {
    const spans = sealedSpans(account)
    const end = spans.at(-1)
    if (end?.high === account.seq) end.until = NO_END
    return spans
  })
  for (const { items, rows } of pace.slices(blocks, rowsOf)) {
    if ((await pace.time(rows, () => changedSpans(connection, items))).length > 0) throw new Doubt()
  }
  for (const { items, rows } of pace.slices(accounts.flatMap(tailSpans), rowsOf)) {
    for (const { span, digest } of await pace.time(rows, () => readDigests(connection, items))) {
      if ((digest === '') !== span.high < span.low || digest === '-') throw new Doubt()
      if (digest !== '') span.account.blocks.push({ to: span.high, digest })
    }
  }
  for (const account of accounts) account.compacted = looks
  return before.reduce((sum, { seq }) => sum + Number(seq), 0)
}
