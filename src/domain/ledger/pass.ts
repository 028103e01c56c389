import type { Connection } from '../../adapters/postgres/client.ts'
import { parseSnapshot, sendForText } from '../outbox/window.ts'
import {
  areAsSealed,
  arrayOf,
  changedSpans,
  ENTRY_BYTES,
  inWindow,
  Pace,
  type Place,
  type Resting,
  readDigests,
  readTransactionsDigest,
  SPANS,
  type Span,
  sealedSpans,
  spanValues,
  transactionsDigest,
  WITHIN,
  type Window,
  windowValues,
} from './digest.ts'
import type { SuspectAccount, SuspectTransaction } from './examine.ts'
import { approvedMenders, mendedBy } from './faults.ts'
import {
  type Glance,
  type Growth,
  glanceAtEntries,
  glanceAtGrowth,
  glanceAtSpans,
  glanceAtTransactions,
  newGlance,
  type Tally,
} from './glance.ts'
import {
  ACCOUNT_CODE,
  type Block,
  formatAccount,
  formatSuspect,
  formatTransactions,
  NOTHING_SEALED,
  parseAccount,
  parseSuspect,
  parseTransactions,
  type Seal,
  type SealedAccount,
  type SealedTransactions,
  type SealWriter,
  sealLines,
} from './seal.ts'

/** What a verification looks at beyond what is new. Without any of these: the whole ledger. */
export interface VerifyScope {
  accountId?: string | undefined
  tenantId?: string | undefined
  /** Accounts that were posted to since then. */
  since?: Date | undefined
  /** All that is sealed, not a share of it. */
  full?: boolean | undefined
  /** Nothing of what is sealed. */
  quick?: boolean | undefined
}

/** What a pass saw. Suspects are looked at again before anything is said of them. */
export interface Sighting {
  /** Everything that this `pg_snapshot` sees was looked at. */
  snapshot: string
  accounts: number
  entries: number
  transactions: number
  newEntries: number
  sealedEntries: number
  suspects: {
    accounts: SuspectAccount[]
    transactions: SuspectTransaction[]
    /** Sealed transactions whose digest is another. */
    blocks: SealedTransactions[]
    /** The new entries and the entries of the new transactions are not the same. */
    strays: boolean
  }
}

export interface PassOptions {
  scope: VerifyScope
  last: Seal | undefined
  writer: SealWriter | undefined
  /** A close look at what was seen with a fault: true when all of it is explained. */
  clearsAccount(suspect: SuspectAccount): Promise<boolean>
  clearsTransaction(suspect: SuspectTransaction): Promise<boolean>
  signal?: AbortSignal | undefined
}

/** One digest for so many entries of an account. */
const ENTRIES_A_BLOCK = 1_000
const TRANSACTIONS_A_BLOCK = 10_000
const ACCOUNTS_A_PAGE = 4_000
// A ledger so small is verified whole each time; of a larger one every pass takes its share of a week.
const ENTRIES_A_PASS = 2_000_000
const PASSES_A_ROUND = 7
const NEVER = -1
const SAME_MOMENT_MS = 1_000
const PARTS_A_PAGE = 4
const NUMERIC_VALUE_OUT_OF_RANGE = '22003'
const NO_END = 2n ** 63n - 1n
// More are one catastrophe, not as many cases.
const MOST_SUSPECTS = 200
const NIL = '00000000-0000-0000-0000-000000000000'

/**
 * Looks through the ledger in the snapshot of the open transaction (repeatable read), and writes what it saw as lines of
 * the next seal when it is given a writer. No row leaves Postgres, only sums and digests.
 *
 * An account's `seq` is taken under its row lock, so what lies behind a sealed `seq` cannot appear late; transactions
 * have no such lock, and are taken by windows between two snapshots. Both end at the same snapshot, hence new entries
 * and the entries of new transactions are the same rows, and a transaction is never seen by halves.
 */
export async function passLedger(connection: Connection, options: PassOptions): Promise<Sighting> {
  const { scope, last, writer } = options
  const whole = scope.accountId === undefined && scope.tenantId === undefined && scope.since === undefined
  if (whole && last?.ofThisCluster) {
    const seen = await glanceOver(connection, options, newGlance(last))
    if (seen) return seen
    await writer?.restart()
  }
  return (await look(connection, options, { whole, glance: undefined }))!
}

interface Look {
  whole: boolean
  /** Undefined for a close look. */
  glance: Glance | undefined
}

async function glanceOver(
  connection: Connection,
  options: PassOptions,
  glance: Glance,
): Promise<Sighting | undefined> {
  await connection.query('savepoint glance')
  try {
    return await look(connection, options, { whole: true, glance })
  } catch (error) {
    // Amounts that no post could have made.
    if ((error as { code?: string }).code !== NUMERIC_VALUE_OUT_OF_RANGE) throw error
    await connection.query('rollback to savepoint glance')
    return undefined
  }
}

/** One look at all; undefined where a glance left a doubt. */
async function look(
  connection: Connection,
  options: PassOptions,
  { whole, glance }: Look,
): Promise<Sighting | undefined> {
  // Its index scans are right at any size; left alone the planner turns to hashes and sorts, at a fifth of the rate.
  for (const plan of ['seqscan', 'bitmapscan', 'hashjoin', 'hashagg', 'material', 'memoize']) {
    await connection.query('select set_config($1, $2, true)', [`enable_${plan}`, 'off'])
  }
  await connection.query(
    `select set_config('jit', 'off', true), set_config('max_parallel_workers_per_gather', '0', true),
       set_config('plan_cache_mode', 'force_generic_plan', true)`,
  )
  const [now] = await connection.query<{ snapshot: string }>('select pg_current_snapshot()::text as snapshot')
  const sighting: Sighting = {
    snapshot: now!.snapshot,
    accounts: 0,
    entries: 0,
    transactions: 0,
    newEntries: 0,
    sealedEntries: 0,
    suspects: { accounts: [], transactions: [], blocks: [], strays: false },
  }
  const { scope, last } = options
  const of = whole && !scope.full && (last?.entries ?? 0) > ENTRIES_A_PASS ? PASSES_A_ROUND : 1
  const turn = { of, now: scope.quick ? NEVER : (last?.n ?? 0) % of }
  const posted = await passTransactions(connection, sighting, options, turn, glance)
  const { suspects } = sighting
  if (glance && suspects.transactions.length > 0) return undefined
  const entered = await passAccounts(connection, sighting, options, turn, glance)
  if (glance) {
    if (entered === undefined || suspects.accounts.length > 0) return undefined
    return (await areTheSame(connection, options, sighting, glance, { posted, entered }))
      ? sighting
      : undefined
  }
  const known = whole ? await countKnownStrays(connection, last) : 0
  suspects.strays = whole && posted.entries + known !== sighting.newEntries
  return sighting
}

/** Whether the new entries of accounts are those of new transactions, which have some each. */
async function areTheSame(
  connection: Connection,
  { last, signal }: PassOptions,
  { snapshot }: Sighting,
  glance: Glance,
  { posted, entered }: { posted: Posted; entered: Entered },
): Promise<boolean> {
  const { pages } = posted
  const known = await connection.query<{ id: string }>('select id from tabib.tenant')
  const tenants = [...new Set([...known.map(({ id }) => id), ...entered.tenants])]
  const times = boundaries(pages)
  let [transactions, entries, marks] = [0n, 0, 0n]
  for (const [i, from] of times.slice(0, -1).entries()) {
    signal?.throwIfAborted()
    const stretch = { from, to: times[i + 1]! }
    const seen = await glanceAtEntries(
      connection,
      tenants,
      stretch,
      { since: seenBy(last), until: snapshot },
      glance,
    )
    transactions += seen.transactions
    entries += seen.entries
    marks += seen.marks
  }
  return (
    transactions === posted.marks && entries === entered.entries && (entries === 0 || marks === entered.marks)
  )
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

/** Which share of what is sealed is looked at: every `of`th, from `now` on. */
interface Turn {
  of: number
  now: number
}

/** What was seen of transactions: entries of the new ones at a close look, or what a glance has to compare them with. */
interface Posted {
  entries: number
  /** Of each new transaction once. */
  marks: bigint
  /** From when to when they were posted. */
  pages: { first: Date; last: Date }[]
}

/** New transactions: each sums to zero, and they get digests; sealed ones: theirs are the same. */
async function passTransactions(
  connection: Connection,
  sighting: Sighting,
  { scope, last, writer, clearsTransaction, signal }: PassOptions,
  turn: Turn,
  glance: Glance | undefined,
): Promise<Posted> {
  const suspects: SuspectTransaction[] = []
  let nth = 0
  for await (const lines of last?.ofThisCluster ? sealLines(last.path, 't ') : []) {
    for (const line of lines) {
      await writer?.write(line)
      const block = parseTransactions(line)
      sighting.transactions += block.count
      if (nth++ % turn.of !== turn.now || scope.accountId !== undefined) continue
      signal?.throwIfAborted()
      const { digest } = await readTransactionsDigest(connection, block)
      if (digest !== block.digest) sighting.suspects.blocks.push(block)
    }
  }

  const posted: Posted = { entries: 0, marks: 0n, pages: [] }
  const window = { since: seenBy(last), until: sighting.snapshot }
  const pace = new Pace({ rowsAtFirst: 1_000, mostRows: TRANSACTIONS_A_BLOCK })
  let after = { xid: parseSnapshot(window.since).xmin, id: NIL }
  if (scope.accountId !== undefined) return posted
  for (;;) {
    signal?.throwIfAborted()
    const page = await nextPage(connection, after, window, glance ? TRANSACTIONS_A_BLOCK : pace.rows)
    if (page === undefined) break
    const seen = glance
      ? await glanceAtTransactions(connection, page, window, glance)
      : await pace.time(pace.rows, () => readTransactions(connection, page, window, scope.tenantId))
    const { count, digest } = seen
    sighting.transactions += count
    if ('marks' in seen) {
      posted.marks += BigInt(seen.marks)
      posted.pages.push(seen)
      // Some of these are not what they say; a close look tells which.
      if (seen.misdated) suspects.push({ tenantId: NIL, id: page.from.id })
    } else {
      posted.entries += seen.entries
      suspects.push(...(seen.suspects ?? []).map(([tenantId, id]) => ({ tenantId, id })))
    }
    await writer?.write(formatTransactions({ ...window, ...page, count, digest }))
    after = page.to
  }
  // What the snapshot shows is over: who says that its transaction is yet to come would be in no window for long.
  const early = await connection.query<SuspectTransaction>(
    `select tenant_id as "tenantId", id from billing.journal_transaction
     where xid >= $1::xid8 and ($2::uuid is null or tenant_id = $2) order by xid, id limit ${MOST_SUSPECTS}`,
    [parseSnapshot(sighting.snapshot).xmax, scope.tenantId ?? null],
  )
  suspects.push(...early)
  // Sealed or not, what did not hold is looked at until it does.
  for await (const lines of last ? sealLines(last.path, 's ') : []) suspects.push(...lines.map(parseSuspect))
  for (const suspect of suspects) {
    if (!glance && suspects.length < MOST_SUSPECTS && (await clearsTransaction(suspect))) continue
    sighting.suspects.transactions.push(suspect)
    await writer?.write(formatSuspect(suspect))
  }
  return posted
}

/** From where to where the next new transactions go, so many at most. */
async function nextPage(
  connection: Connection,
  after: Place,
  window: Window,
  rows: number,
): Promise<{ from: Place; to: Place } | undefined> {
  const next = (order: string, more: string) => `
    select xid, id from billing.journal_transaction
    where (xid, id) > ($1::xid8, $2::uuid) and ${inWindow(3)} order by xid ${order}, id ${order} ${more} limit 1`
  const [places] = await sendForText(
    connection,
    'ledger_transactions_page',
    `select first.xid, first.id, coalesce(full_page.xid, rest.xid), coalesce(full_page.id, rest.id)
     from (${next('asc', '')}) first
       left join lateral (${next('asc', 'offset $7::int - 1')}) full_page on true
       left join lateral (${next('desc', '')}) rest on full_page.xid is null`,
    [after.xid, after.id, ...windowValues(window), rows],
  )
  if (places === undefined) return undefined
  const [fromXid, fromId, toXid, toId] = places as [string, string, string, string]
  return { from: { xid: fromXid, id: fromId }, to: { xid: toXid, id: toId } }
}

interface TransactionsPage {
  count: number
  entries: number
  digest: string
  /** Tenant and id. */
  suspects: [string, string][] | null
}

/** New transactions from one place to another, each held against its entries. */
async function readTransactions(
  connection: Connection,
  { from, to }: { from: Place; to: Place },
  window: Window,
  tenantId: string | undefined,
): Promise<TransactionsPage> {
  const values = [from.xid, from.id, to.xid, to.id, ...windowValues(window)]
  const [sealed] = await connection.query<{ digest: string }>(
    `select ${transactionsDigest(inWindow(5))}`,
    values,
    'ledger_transactions_to_seal',
  )
  const [page] = await connection.query<Omit<TransactionsPage, 'digest'>>(
    `select count(*)::int as count, coalesce(sum(e.n), 0)::float8 as entries,
         json_agg(json_build_array(t.tenant_id, t.id)) filter (where not e.fits) as suspects
       from billing.journal_transaction t cross join lateral (
         select count(*) as n,
           coalesce(bool_and(e.xid = t.xid)
             and min(e.posted_at) >= t.posted_at - interval '1 hour'
             and max(e.posted_at) <= t.posted_at + interval '1 day'
             and case when min(e.currency collate "C") = max(e.currency collate "C") then sum(e.amount_minor) = 0
               else not exists (
                 select from billing.entry c where c.tenant_id = t.tenant_id and c.transaction_id = t.id
                 group by c.currency having sum(c.amount_minor) <> 0) end, false) as fits
         from billing.entry e where e.tenant_id = t.tenant_id and e.transaction_id = t.id) e
       where (t.xid, t.id) >= ($1::xid8, $2::uuid) and (t.xid, t.id) <= ($3::xid8, $4::uuid)
         and ${inWindow(5, 't.xid')} and ($9::uuid is null or t.tenant_id = $9)`,
    [...values, tenantId ?? null],
    'ledger_new_transactions',
  )
  return { ...page!, ...sealed! }
}

/** An account on its way through the statements. */
interface Work extends SealedAccount {
  sealed: SealedAccount | undefined
  /** Whether what is sealed is looked at again. */
  again: boolean
  suspect: boolean
  /** Of its new entries. */
  count: bigint
  sum: bigint
}

/** New entries of one account. */
interface NewSpan extends Span<Work> {
  /** The balance before them; null where it is the entry's before them. */
  opened: bigint | null
}

/** What a glance adds up of accounts. */
interface Entered extends Tally {
  tenants: Set<string>
}

/** How long the statements of a pass over accounts take, by their kinds. */
const paces = () => ({ resting: new Pace(), sealed: new Pace(), fresh: new Pace({ rowsAtFirst: 4_000 }) })

/**
 * Every account against its seal and its balance, with its new entries and, where it is its turn, its sealed ones. Returns
 * what a glance adds up; undefined where it leaves a doubt.
 */
async function passAccounts(
  connection: Connection,
  sighting: Sighting,
  { scope, last, writer, clearsAccount, signal }: PassOptions,
  turn: Turn,
  glance: Glance | undefined,
): Promise<Entered | undefined> {
  const { suspects } = sighting
  const pace = paces()
  const entered: Entered = { entries: 0, marks: 0n, tenants: new Set() }
  // In each currency, what should be nothing.
  const weighed = new Map<string, bigint>()
  let inDoubt = false
  // Lines of the next seal in their order; those that are ready as text, and those of accounts at rest whose turn it is.
  let batch: (Work | GrownAccount | RestingAccount | string)[] = []
  let entries = 0
  const settle = async () => {
    signal?.throwIfAborted()
    const asSealed = await restAsSealed(connection, batch, pace.resting)
    const works = asSealed ? batch : batch.map((one) => (isResting(one) ? workAtRest(one.rests) : one))
    const found = await readEntries(connection, works.filter(isWork), last, pace)
    if (glance) {
      const spans = works.filter(isGrown).flatMap((one) => one.spans)
      const again = await glanceAtSpans(connection, found, glance, pace.fresh)
      inDoubt ||= again === undefined
      const seen = [...(await glanceAtGrowth(connection, spans, glance, pace.fresh)), ...(again ?? [])]
      for (const { currency, entries, marks, weight } of seen) {
        entered.entries += entries
        entered.marks += marks
        weighed.set(currency, (weighed.get(currency) ?? 0n) + weight)
      }
    }
    for (const work of works) {
      let line: string
      if (typeof work === 'string') line = work
      else if (isResting(work)) {
        line = work.rests
        sighting.sealedEntries += work.entries
      } else if (isGrown(work)) {
        if (work.spans.some(({ digest }) => digest === '')) {
          suspects.accounts.push(workOn(parseAccount(`${work.line} - `), undefined, false))
          return
        }
        sighting.newEntries += work.entries
        line = `${work.line} - ${work.blocks}${work.spans.map(({ high, digest }) => `${high}:${digest}`).join()}`
      } else {
        let holds = !work.suspect && addsUp(work)
        if (!holds && glance) {
          suspects.accounts.push(work)
          return
        }
        sighting.newEntries += work.suspect ? await countNew(connection, work, last) : Number(work.count)
        if (work.again) sighting.sealedEntries += Number(work.sealed?.seq ?? 0n)
        if (!holds && !glance && suspects.accounts.length < MOST_SUSPECTS && (await clearsAccount(work))) {
          // Its faults are known and made up for: sealed as it is.
          work.blocks = []
          await digestAnew(connection, spansBetween(work, 1n, work.seq), pace.sealed)
          holds = true
        }
        if (!holds) suspects.accounts.push(work)
        line = formatAccount(holds ? work : heldBack(work, last))
      }
      const writing = writer?.write(line)
      if (writing) await writing
    }
    batch = []
    entries = 0
  }

  await using seals = new SealedLines(last, scope)
  const missing = (line: string) => {
    const sealed = parseAccount(line)
    const work = workOn(sealed, sealed, false)
    work.suspect = true
    batch.push(work)
  }
  let nth = 0
  let tenant = ''
  for await (const page of accountLines(connection, scope)) {
    for (const line of page) {
      let key = seals.key()
      if (key instanceof Promise) key = await key
      for (; key !== undefined && key < keyOf(line); key = await seals.key()) missing(seals.take())
      const sealedLine = key === keyOf(line) ? seals.take() : undefined
      const again = nth++ % turn.of === turn.now
      if (tenant === '' || !line.startsWith(tenant, 2)) {
        tenant = line.slice(2, 38)
        entered.tenants.add(tenant)
      }
      sighting.accounts += 1
      const seq = seqOf(line)
      sighting.entries += seq
      // An account at rest costs a comparison, until it is its turn.
      const rests = sealedLine?.startsWith(line) === true && sealedLine.startsWith(' - ', line.length)
      const grown = glance && !again && !rests ? growthOf(line, sealedLine) : undefined
      if (rests && !again) batch.push(sealedLine)
      else if (rests && isOneBlock(sealedLine, line.length)) {
        batch.push({ rests: sealedLine, entries: seq })
        entries += seq
      } else if (grown) {
        batch.push(grown)
        entries += grown.entries
      } else {
        const sealed = sealedLine === undefined ? undefined : parseAccount(sealedLine)
        const work = workOn(rests ? sealed! : parseAccount(`${line} - `), sealed, again)
        batch.push(work)
        entries += seq - (again ? 0 : Number(sealed?.seq ?? 0n))
      }
      if (entries >= pace.resting.rows || batch.length >= ACCOUNTS_A_PAGE) await settle()
      if (glance && (inDoubt || suspects.accounts.length > 0)) return undefined
    }
  }
  while ((await seals.key()) !== undefined) missing(seals.take())
  await settle()
  if (glance && (inDoubt || [...weighed.values()].some((sum) => sum % glance.prime !== 0n))) return undefined
  return entered
}

/** An account that differs from its seal by new entries alone, by what the two lines say. */
interface GrownAccount {
  line: string
  entries: number
  /** As the seal has them, with a comma behind. */
  blocks: string
  spans: Growth[]
}

/** The line of an account that is at rest, by what it says, and whose entries are looked at. */
interface RestingAccount {
  rests: string
  entries: number
}

type Batched = Work | GrownAccount | RestingAccount | string
const isWork = (one: Batched): one is Work => typeof one !== 'string' && 'again' in one
const isGrown = (one: Batched): one is GrownAccount => typeof one !== 'string' && 'spans' in one
const isResting = (one: Batched): one is RestingAccount => typeof one !== 'string' && 'rests' in one

function growthOf(line: string, sealedLine: string | undefined): GrownAccount | undefined {
  const closingAt = line.lastIndexOf(' ') + 1
  const seqAt = line.lastIndexOf(' ', closingAt - 2) + 1
  const sealed = sealedLine === undefined ? ['0', '0', '-', ''] : sealedLine.slice(seqAt).split(' ')
  const [seq, opened, heldAt, blocks] = sealed as [string, string, string, string]
  // All but what grows is as it was sealed.
  if (sealedLine !== undefined && (heldAt !== '-' || !sealedLine.startsWith(line.slice(0, seqAt))))
    return undefined
  const before = Number(seq)
  const after = Number(line.slice(seqAt, closingAt))
  if (!(after > before)) return undefined
  const spans: Growth[] = []
  for (let low = before + 1; low <= after; low += ENTRIES_A_BLOCK) {
    const high = Math.min(low + ENTRIES_A_BLOCK - 1, after)
    spans.push({
      tenantId: line.slice(2, 38),
      accountId: line.slice(39, 75),
      currency: line.slice(76, line.indexOf(' ', 76)),
      low,
      high,
      opened: low === before + 1 ? opened : null,
      closing: high === after ? line.slice(closingAt) : null,
      digest: '',
    })
  }
  return { line, entries: after - before, blocks: blocks && `${blocks},`, spans }
}

function workAtRest(line: string): Work {
  const sealed = parseAccount(line)
  return workOn(sealed, sealed, true)
}

/** Whether a sealed line, whose blocks come behind what it says of the account, has one. */
const isOneBlock = (line: string, factsLength: number) =>
  line.length > factsLength + 3 && !line.includes(',', factsLength)

const isFull = ({ to }: Block, i: number) => to === BigInt(ENTRIES_A_BLOCK * (i + 1))

/** Whether all entries of accounts at rest are as their lines in the seal say, by a few quick looks. */
async function restAsSealed(connection: Connection, batch: Batched[], pace: Pace): Promise<boolean> {
  let group: Resting | undefined
  let alone = true
  const groups: Resting[] = []
  for (const one of batch) {
    if (!isResting(one)) {
      alone = false
      continue
    }
    const { rests, entries } = one
    if (
      group === undefined ||
      !rests.startsWith(group.tenantId, 2) ||
      // Its code is followed by a blank.
      !rests.startsWith(group.currency, 76) ||
      rests.charCodeAt(76 + group.currency.length) !== 32 ||
      group.entries >= pace.rows
    ) {
      const currency = rests.slice(76, rests.indexOf(' ', 76))
      group = {
        tenantId: rests.slice(2, 38),
        currency,
        accountIds: [],
        digests: [],
        entries: 0,
        together: true,
      }
      groups.push(group)
      alone = true
    }
    group.together &&= alone
    group.accountIds.push(rests.slice(39, 75))
    group.digests.push(rests.slice(-64))
    group.entries += entries
  }
  for (const one of groups) {
    if (!(await pace.time(one.entries, () => areAsSealed(connection, one)))) return false
  }
  return true
}

// Field by field: to spread an account takes V8 ten times as long.
function workOn(now: SealedAccount, sealed: SealedAccount | undefined, again: boolean): Work {
  return {
    tenantId: now.tenantId,
    accountId: now.accountId,
    currency: now.currency,
    openingMinor: now.openingMinor,
    code: now.code,
    seq: now.seq,
    balanceMinor: now.balanceMinor,
    heldAt: undefined,
    blocks: sealed?.blocks ?? [],
    sealed,
    again,
    suspect: sealed?.heldAt !== undefined,
    count: 0n,
    sum: 0n,
  }
}

/** Accounts page by page, each as the beginning of its line in a seal. */
async function* accountLines(connection: Connection, scope: VerifyScope): AsyncGenerator<string[]> {
  const all = scope.accountId === undefined && scope.tenantId === undefined && scope.since === undefined
  // The balances of a page are among as many: read side by side they take half of what it takes to look each up.
  const balances = all
    ? `(select tenant_id, account_id, seq, balance_minor from billing.balance
        where (tenant_id, account_id) > ($1::uuid, $2::uuid) order by tenant_id, account_id limit ${ACCOUNTS_A_PAGE})`
    : 'billing.balance'
  let after: (string | undefined)[] = [NIL, NIL]
  for (;;) {
    const [[page]] = (await sendForText(
      connection,
      all ? 'ledger_all_accounts' : 'ledger_accounts',
      `select string_agg(concat_ws(' ', 'a', tenant_id, id, currency, opening_minor, code, seq, balance_minor), E'\\n') from (
       select a.tenant_id, a.id, a.currency, a.opening_minor, ${ACCOUNT_CODE} as code, coalesce(b.seq, 0) as seq,
         coalesce(b.balance_minor, 0) as balance_minor
       from billing.account a left join ${balances} b on b.tenant_id = a.tenant_id and b.account_id = a.id
       where (a.tenant_id, a.id) > ($1::uuid, $2::uuid)
         and ($3::uuid is null or a.tenant_id = $3) and ($4::uuid is null or a.id = $4)
         and ($5::timestamptz is null or $5 <= (
           select e.posted_at from billing.entry e where e.tenant_id = a.tenant_id and e.account_id = a.id
           order by e.seq desc limit 1))
       order by a.tenant_id, a.id limit ${ACCOUNTS_A_PAGE}) page`,
      [...after, scope.tenantId, scope.accountId, scope.since],
    )) as [[string | null]]
    if (page === null) return
    const lines = page.split('\n')
    yield lines
    if (lines.length < ACCOUNTS_A_PAGE) return
    after = lines.at(-1)!.split(' ', 3).slice(1)
  }
}

/** Tenant and account: what the lines of accounts are in the order of. */
const keyOf = (line: string) => line.slice(2, 75)
/** The last but one word of an account's line as it is read. */
function seqOf(line: string): number {
  const end = line.lastIndexOf(' ')
  return Number(line.slice(line.lastIndexOf(' ', end - 1) + 1, end))
}

/** The last seal's lines of accounts, one by one. */
class SealedLines implements AsyncDisposable {
  readonly #pages: AsyncGenerator<string[]> | undefined
  readonly #wanted: ((line: string) => boolean) | undefined
  #page: string[] = []
  #next = 0

  constructor(last: Seal | undefined, { tenantId, accountId, since }: VerifyScope) {
    // Which account was posted to since then is asked of what is there.
    this.#pages = last && since === undefined ? sealLines(last.path, 'a ') : undefined
    if (tenantId === undefined && accountId === undefined) return
    this.#wanted = (line) =>
      (tenantId === undefined || line.startsWith(tenantId, 2)) &&
      (accountId === undefined || line.startsWith(accountId, 39))
  }

  key(): string | undefined | Promise<string | undefined> {
    return this.#next < this.#page.length ? keyOf(this.#page[this.#next]!) : this.#turn()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pages?.return(undefined)
  }

  take(): string {
    return this.#page[this.#next++]!
  }

  async #turn(): Promise<string | undefined> {
    for (;;) {
      const read = await this.#pages?.next()
      if (read === undefined || read.done) return undefined
      this.#page = this.#wanted ? read.value.filter(this.#wanted) : read.value
      this.#next = 0
      if (this.#page.length > 0) return keyOf(this.#page[0]!)
    }
  }
}

/** What a seal of this cluster has seen of the ledger; of another's, the transaction ids say nothing. */
const seenBy = (seal: Seal | undefined): string => (seal?.ofThisCluster ? seal.snapshot : NOTHING_SEALED)

/** New entries of older transactions, of which a reconciliation has explained that nobody posted them. */
async function countKnownStrays(connection: Connection, last: Seal | undefined): Promise<number> {
  const [row] = await connection.query<{ n: number }>(
    `select count(*)::int as n
     from (select m.* from ${mendedBy(2)} where m.check_name = 'transaction') m
     join billing.entry e
       on (e.tenant_id, e.account_id, e.seq, e.transaction_id) = (m.tenant_id, m.account_id, m.seq, m.of_transaction)
     join billing.journal_transaction t on (t.tenant_id, t.id) = (e.tenant_id, e.transaction_id)
     where not pg_visible_in_snapshot(e.xid, $1::pg_snapshot) and pg_visible_in_snapshot(t.xid, $1::pg_snapshot)`,
    [seenBy(last), await approvedMenders(connection)],
  )
  return row!.n
}

/** New entries of an account that was not read, by what the last seal saw: what it says of the account may be older. */
async function countNew(
  connection: Connection,
  { tenantId, accountId }: Work,
  last: Seal | undefined,
): Promise<number> {
  const [row] = await connection.query<{ n: number }>(
    `select count(*)::int as n from billing.entry
     where tenant_id = $1 and account_id = $2 and not pg_visible_in_snapshot(xid, $3::pg_snapshot)`,
    [tenantId, accountId, seenBy(last)],
  )
  return row!.n
}

/** What does not hold is not sealed over: the next seal says of it what the last did, and when that was. */
function heldBack({ sealed, ...now }: Work, last: Seal | undefined): SealedAccount {
  if (sealed) return { ...sealed, heldAt: sealed.heldAt ?? last?.snapshot }
  return { ...now, seq: 0n, balanceMinor: 0n, blocks: [], heldAt: seenBy(last) }
}

/** What can be said of an account without its entries, and whether its new ones lead from the sealed balance to today's. */
function addsUp({ sealed, code, currency, openingMinor, balanceMinor, seq, count, sum }: Work): boolean {
  if (
    sealed &&
    (sealed.code !== code || sealed.currency !== currency || sealed.openingMinor !== openingMinor)
  )
    return false
  const from = sealed ?? { seq: 0n, balanceMinor: 0n }
  return from.seq + count === seq && from.balanceMinor + sum === balanceMinor
}

/** Lets Postgres sum and digest the entries of some accounts, and marks those in which something is not as it should be. */
async function readEntries(
  connection: Connection,
  accounts: Work[],
  last: Seal | undefined,
  pace: ReturnType<typeof paces>,
): Promise<NewEntries[]> {
  const sealed = accounts.filter(({ again, suspect }) => again && !suspect).flatMap(sealedSpansOf)
  for (const { items, rows } of pace.sealed.slices(sealed, rowsOf)) {
    const changed = await pace.sealed.time(rows, () => changedSpans(connection, items))
    for (const { account } of changed) account.suspect = true
  }
  const found: NewEntries[] = []
  const fresh = accounts.filter(({ suspect }) => !suspect).flatMap(newSpans)
  for (const { items, rows } of pace.fresh.slices(fresh, rowsOf)) {
    found.push(...(await pace.fresh.time(rows, () => readNew(connection, items, last))))
  }
  for (const { span, count, sum, flaws, digest } of found) {
    const { account } = span
    if (flaws) account.suspect = true
    account.count += count
    account.sum += sum
    if (count > 0n) account.blocks = [...account.blocks, { to: span.low + count - 1n, digest: digest! }]
  }
  // The small blocks of many passes become one, once all in them was found as it was sealed.
  await digestAnew(
    connection,
    accounts.filter(({ again, suspect }) => again && !suspect).flatMap(mergeTail),
    pace.sealed,
  )
  return found
}

const rowsOf = ({ low, high }: Span) => Number(high - low) + 1

/** Appends the digest of each span to its account's blocks. */
async function digestAnew(connection: Connection, spans: Span<Work>[], pace: Pace): Promise<void> {
  for (const { items, rows } of pace.slices(spans, rowsOf)) {
    for (const { span, digest } of await pace.time(rows, () => readDigests(connection, items)))
      span.account.blocks.push({ to: span.high, digest })
  }
}

/** Its sealed blocks; where nothing was posted since, the last goes to the end, where nothing should be. */
function sealedSpansOf(account: Work): (Span<Work> & { digest: string })[] {
  const spans = sealedSpans(account)
  const end = spans.at(-1)
  if (end && account.sealed?.seq === account.seq) end.until = NO_END
  return spans
}

function newSpans(account: Work): NewSpan[] {
  const { sealed, seq } = account
  if (sealed && sealed.seq === seq && sealed.blocks.length > 0) return []
  const spans = spansBetween(account, (sealed?.seq ?? 0n) + 1n, seq)
  spans[0]!.opened = sealed?.balanceMinor ?? 0n
  // To the end, behind which there should be nothing.
  spans.at(-1)!.until = NO_END
  return spans
}

/** Drops the blocks behind the last one that is full, if there are several, and returns the spans that replace them. */
function mergeTail(account: Work): Span<Work>[] {
  const full = account.blocks.findIndex((block, i) => !isFull(block, i))
  if (full === -1 || full === account.blocks.length - 1) return []
  const end = account.blocks.at(-1)!.to
  account.blocks = account.blocks.slice(0, full)
  return spansBetween(account, BigInt(ENTRIES_A_BLOCK * full) + 1n, end)
}

/** One span at least. */
function spansBetween(account: Work, from: bigint, to: bigint): NewSpan[] {
  const spans: NewSpan[] = []
  const step = BigInt(ENTRIES_A_BLOCK)
  for (let low = from; low === from || low <= to; low += step) {
    const high = low + step - 1n
    spans.push({ account, low, high: high < to ? high : to, opened: null })
  }
  return spans
}

interface NewEntries {
  span: NewSpan
  count: bigint
  sum: bigint
  /** A gap, a balance that does not follow from the one before, another currency, a time to come, an entry of before. */
  flaws: boolean
  digest: string | null
}

async function readNew(
  connection: Connection,
  spans: NewSpan[],
  last: Seal | undefined,
): Promise<NewEntries[]> {
  if (spans.length === 0) return []
  await connection.query('savepoint before_sums')
  try {
    const rows = await readClosely(connection, spans, last)
    return rows.map(([count, sum, flaws, digest], i) => ({
      span: spans[i]!,
      count: BigInt(count!),
      sum: BigInt(sum!),
      flaws: flaws === 't',
      digest: digest ?? null,
    }))
  } catch (error) {
    if ((error as { code?: string }).code !== NUMERIC_VALUE_OUT_OF_RANGE) throw error
    // Amounts that no post could have made: the account that has them is found by halves, and looked at by itself.
    await connection.query('rollback to savepoint before_sums')
    if (spans.length === 1) {
      return spans.map((span) => ({ span, count: 0n, sum: 0n, flaws: true, digest: null }))
    }
    const half = Math.ceil(spans.length / 2)
    return [
      ...(await readNew(connection, spans.slice(0, half), last)),
      ...(await readNew(connection, spans.slice(half), last)),
    ]
  }
}

/** Each balance against the one before, and each entry against what the last seal saw. */
function readClosely(connection: Connection, spans: NewSpan[], last: Seal | undefined): Promise<string[][]> {
  const since = last?.ofThisCluster ? last.snapshot : undefined
  // What the last seal saw cannot be behind what it sealed of the account. Without one the index alone is read.
  const moved = since === undefined ? 'false' : '(xid < $8::xid8 and xid <> all($9::xid8[]))'
  return sendForText(
    connection,
    since === undefined ? 'ledger_first_entries' : 'ledger_new_entries',
    `select e.* from ${SPANS}, $7::bigint[])
       with ordinality as s(tenant_id, account_id, low, high, currency, until, opened, nth),
     lateral (
       select count(*) as count, coalesce(sum(e.amount_minor), 0)::bigint as sum,
         coalesce(min(e.seq) <> s.low or max(e.seq) - s.low + 1 <> count(*) or bool_or(e.flaw), false) as flaws,
         encode(sha256(string_agg(${ENTRY_BYTES}, '')), 'hex') as digest
       from (
         select *, ${moved} or currency <> s.currency or posted_at > now() + interval '5 minutes'
           or balance_minor - amount_minor is distinct from
             lag(balance_minor, 1, coalesce(s.opened, (
               select b.balance_minor from billing.entry b
               where b.tenant_id = s.tenant_id and b.account_id = s.account_id and b.seq = s.low - 1
             ))) over (order by seq) as flaw
         from (select seq, amount_minor, balance_minor, transaction_id, currency, posted_at${since === undefined ? '' : ', xid'}
               from billing.entry e where ${WITHIN}) e) e) e
     order by nth`,
    [
      ...spanValues(spans),
      arrayOf(spans, ({ opened }) => opened ?? 'null'),
      ...(since === undefined ? [] : [parseSnapshot(since).xmax, parseSnapshot(since).xip]),
    ],
  )
}
