import type { Connection } from '../../adapters/postgres/client.ts'
import { parseSnapshot, sendForText } from '../outbox/window.ts'
import {
  arrayOf,
  changedSpans,
  ENTRY_BYTES,
  inWindow,
  readDigests,
  SPANS,
  type Span,
  sealedSpans,
  spanValues,
  TRANSACTIONS_DIGEST,
  WITHIN,
  windowValues,
} from './digest.ts'
import type { SuspectAccount, SuspectTransaction } from './examine.ts'
import { MENDED } from './faults.ts'
import {
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
const ENTRIES_A_BLOCK = 1_000n
const TRANSACTIONS_A_BLOCK = 10_000
const ACCOUNTS_A_PAGE = 1_000
// Some 50 ms of a statement.
const ENTRIES_A_STATEMENT = 100_000n
// A ledger so small is verified whole each time; of a larger one every pass takes its share of a week.
const ENTRIES_A_PASS = 2_000_000
const PASSES_A_ROUND = 7
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
  // Its index scans are right at any size; left alone the planner turns to hashes and sorts, at a fifth of the rate.
  for (const plan of ['seqscan', 'bitmapscan', 'hashjoin', 'mergejoin', 'hashagg', 'material', 'memoize']) {
    await connection.query('select set_config($1, $2, true)', [`enable_${plan}`, 'off'])
  }
  await connection.query(
    `select set_config('jit', 'off', true), set_config('max_parallel_workers_per_gather', '0', true)`,
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
  const whole = scope.accountId === undefined && scope.tenantId === undefined && scope.since === undefined
  const of = whole && !scope.full && (last?.entries ?? 0) > ENTRIES_A_PASS ? PASSES_A_ROUND : 1
  const turn = { of, now: (last?.n ?? 0) % of }
  const entriesOfNew = await passTransactions(connection, sighting, options, turn)
  await passAccounts(connection, sighting, options, turn)
  const known = whole ? await countKnownStrays(connection, last) : 0
  sighting.suspects.strays = whole && entriesOfNew + known !== sighting.newEntries
  return sighting
}

/** Which share of what is sealed is looked at: every `of`th, from `now` on. */
interface Turn {
  of: number
  now: number
}

/** New transactions: each sums to zero, and they get digests; sealed ones: theirs are the same. Returns the entries of the new. */
async function passTransactions(
  connection: Connection,
  sighting: Sighting,
  { scope, last, writer, clearsTransaction, signal }: PassOptions,
  turn: Turn,
): Promise<number> {
  const suspects: SuspectTransaction[] = []
  let nth = 0
  for await (const lines of last?.ofThisCluster ? sealLines(last.path, 't ') : []) {
    for (const line of lines) {
      await writer?.write(line)
      const block = parseTransactions(line)
      sighting.transactions += block.count
      if (nth++ % turn.of !== turn.now || scope.accountId !== undefined) continue
      signal?.throwIfAborted()
      const [found] = await connection.query<{ digest: string }>(
        `select ${TRANSACTIONS_DIGEST} as digest
         from (select * from billing.journal_transaction
               where (xid, id) >= ($1::xid8, $2::uuid) and (xid, id) <= ($3::xid8, $4::uuid) and ${inWindow(5)}
               order by xid, id) t`,
        [block.from.xid, block.from.id, block.to.xid, block.to.id, ...windowValues(block)],
        'ledger_sealed_transactions',
      )
      if (found!.digest !== block.digest) sighting.suspects.blocks.push(block)
    }
  }

  const window = { since: seenBy(last), until: sighting.snapshot }
  let entries = 0
  let after = { xid: parseSnapshot(window.since).xmin, id: NIL }
  if (scope.accountId !== undefined) return 0
  for (;;) {
    signal?.throwIfAborted()
    const [page] = await connection.query<{
      count: number
      entries: number
      from: string[]
      to: string[]
      digest: string
      suspects: [string, string][] | null
    }>(
      `with t as materialized (
         select * from billing.journal_transaction
         where (xid, id) > ($1::xid8, $2::uuid) and ${inWindow(3)} and ($7::uuid is null or tenant_id = $7)
         order by xid, id limit ${TRANSACTIONS_A_BLOCK})
       select count(*)::int as count, coalesce(sum(e.n), 0)::float8 as entries,
         (select array[xid::text, id::text] from t limit 1) as from,
         (select array[xid::text, id::text] from t offset greatest((select count(*) from t) - 1, 0)) as to,
         ${TRANSACTIONS_DIGEST} as digest,
         json_agg(json_build_array(t.tenant_id, t.id)) filter (where not e.fits) as suspects
       from t cross join lateral (
         select count(*) as n,
           coalesce(bool_and(e.xid = t.xid)
             and min(e.posted_at) >= t.posted_at - interval '1 hour'
             and max(e.posted_at) <= t.posted_at + interval '1 day'
             and case when min(e.currency collate "C") = max(e.currency collate "C") then sum(e.amount_minor) = 0
               else not exists (
                 select from billing.entry c where c.tenant_id = t.tenant_id and c.transaction_id = t.id
                 group by c.currency having sum(c.amount_minor) <> 0) end, false) as fits
         from billing.entry e where e.tenant_id = t.tenant_id and e.transaction_id = t.id) e`,
      [after.xid, after.id, ...windowValues(window), scope.tenantId ?? null],
      'ledger_new_transactions',
    )
    const { count, digest } = page!
    if (count === 0) break
    entries += page!.entries
    sighting.transactions += count
    suspects.push(...(page!.suspects ?? []).map(([tenantId, id]) => ({ tenantId, id })))
    const [from, to] = [page!.from, page!.to].map(([xid, id]) => ({ xid: xid!, id: id! })) as [
      typeof after,
      typeof after,
    ]
    await writer?.write(formatTransactions({ ...window, from, to, count, digest }))
    after = to
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
    if (suspects.length < MOST_SUSPECTS && (await clearsTransaction(suspect))) continue
    sighting.suspects.transactions.push(suspect)
    await writer?.write(formatSuspect(suspect))
  }
  return entries
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

/** Every account against its seal and its balance, with its new entries and, where it is its turn, its sealed ones. */
async function passAccounts(
  connection: Connection,
  sighting: Sighting,
  { scope, last, writer, clearsAccount, signal }: PassOptions,
  turn: Turn,
): Promise<void> {
  const { suspects } = sighting
  // Lines of the next seal in their order; those that are ready as text.
  let batch: (Work | string)[] = []
  let entries = 0n
  const settle = async () => {
    signal?.throwIfAborted()
    await readEntries(
      connection,
      batch.filter((one) => typeof one !== 'string'),
      last,
    )
    for (const work of batch) {
      if (typeof work === 'string') {
        await writer?.write(work)
        continue
      }
      sighting.newEntries += work.suspect ? await countNew(connection, work, last) : Number(work.count)
      if (work.again) sighting.sealedEntries += Number(work.sealed?.seq ?? 0n)
      let holds = !work.suspect && addsUp(work)
      if (!holds && suspects.accounts.length < MOST_SUSPECTS && (await clearsAccount(work))) {
        // Its faults are known and made up for: sealed as it is.
        const spans = spansBetween(work, 1n, work.seq)
        work.blocks = (await readDigests(connection, spans)).map(({ span, digest }) => ({
          to: span.high,
          digest,
        }))
        holds = true
      }
      if (!holds) suspects.accounts.push(work)
      await writer?.write(formatAccount(holds ? work : heldBack(work, last)))
    }
    batch = []
    entries = 0n
  }

  const seals = new SealedLines(last, scope)
  const missing = (line: string) => {
    const sealed = parseAccount(line)
    const work = workOn(sealed, sealed, false)
    work.suspect = true
    batch.push(work)
  }
  let nth = 0
  for await (const page of accountLines(connection, scope)) {
    for (const line of page) {
      let key = seals.key()
      if (key instanceof Promise) key = await key
      for (; key !== undefined && key < keyOf(line); key = await seals.key()) missing(seals.take())
      const sealedLine = key === keyOf(line) ? seals.take() : undefined
      const again = nth++ % turn.of === turn.now
      sighting.accounts += 1
      sighting.entries += Number(line.split(' ', 7)[6])
      // An account at rest costs a comparison, until it is its turn.
      const rests = sealedLine?.startsWith(`${line} - `) === true
      if (rests && !again) batch.push(sealedLine!)
      else {
        const sealed = sealedLine === undefined ? undefined : parseAccount(sealedLine)
        const work = workOn(rests ? sealed! : parseAccount(`${line} - `), sealed, again)
        batch.push(work)
        entries += work.seq - (again ? 0n : (sealed?.seq ?? 0n))
      }
      if (entries >= ENTRIES_A_STATEMENT || batch.length >= ACCOUNTS_A_PAGE) await settle()
    }
  }
  while ((await seals.key()) !== undefined) missing(seals.take())
  await settle()
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
  let after: (string | undefined)[] = [NIL, NIL]
  for (;;) {
    const rows = await sendForText(
      connection,
      'ledger_accounts',
      `select concat_ws(' ', 'a', a.tenant_id, a.id, a.currency, a.opening_minor,
         replace(replace(a.code, '%', '%25'), ' ', '%20'), coalesce(b.seq, 0), coalesce(b.balance_minor, 0))
       from billing.account a left join billing.balance b on b.tenant_id = a.tenant_id and b.account_id = a.id
       where (a.tenant_id, a.id) > ($1::uuid, $2::uuid)
         and ($3::uuid is null or a.tenant_id = $3) and ($4::uuid is null or a.id = $4)
         and ($5::timestamptz is null or $5 <= (
           select e.posted_at from billing.entry e where e.tenant_id = a.tenant_id and e.account_id = a.id
           order by e.seq desc limit 1))
       order by a.tenant_id, a.id limit ${ACCOUNTS_A_PAGE}`,
      [...after, scope.tenantId, scope.accountId, scope.since],
    )
    const lines = rows.map(([line]) => line!)
    yield lines
    const end = lines.at(-1)
    if (end === undefined || lines.length < ACCOUNTS_A_PAGE) return
    after = end.split(' ', 3).slice(1)
  }
}

/** Tenant and account: what the lines of accounts are in the order of. */
const keyOf = (line: string) => line.slice(2, 75)

/** The last seal's lines of accounts, one by one. */
class SealedLines {
  readonly #pages: AsyncGenerator<string[]> | undefined
  readonly #wanted: (line: string) => boolean
  #page: string[] = []
  #next = 0

  constructor(last: Seal | undefined, { tenantId, accountId, since }: VerifyScope) {
    // Which account was posted to since then is asked of what is there.
    this.#pages = last && since === undefined ? sealLines(last.path, 'a ') : undefined
    this.#wanted = (line) =>
      (tenantId === undefined || line.startsWith(tenantId, 2)) &&
      (accountId === undefined || line.startsWith(accountId, 39))
  }

  key(): string | undefined | Promise<string | undefined> {
    return this.#next < this.#page.length ? keyOf(this.#page[this.#next]!) : this.#turn()
  }

  take(): string {
    return this.#page[this.#next++]!
  }

  async #turn(): Promise<string | undefined> {
    for (;;) {
      const read = await this.#pages?.next()
      if (read === undefined || read.done) return undefined
      this.#page = read.value.filter(this.#wanted)
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
     from (select m.* from ${MENDED} where m.check_name = 'transaction') m
     join billing.entry e
       on (e.tenant_id, e.account_id, e.seq, e.transaction_id) = (m.tenant_id, m.account_id, m.seq, m.of_transaction)
     join billing.journal_transaction t on (t.tenant_id, t.id) = (e.tenant_id, e.transaction_id)
     where not pg_visible_in_snapshot(e.xid, $1::pg_snapshot) and pg_visible_in_snapshot(t.xid, $1::pg_snapshot)`,
    [seenBy(last)],
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
async function readEntries(connection: Connection, accounts: Work[], last: Seal | undefined): Promise<void> {
  const sealed = accounts.filter(({ again, suspect }) => again && !suspect).flatMap(sealedSpansOf)
  for (const { account } of await changedSpans(connection, sealed)) account.suspect = true
  const fresh = accounts.filter(({ suspect }) => !suspect).flatMap(newSpans)
  for (const { span, count, sum, flaws, digest } of await readNew(connection, fresh, last)) {
    const { account } = span
    if (flaws) account.suspect = true
    account.count += count
    account.sum += sum
    if (count > 0n) account.blocks = [...account.blocks, { to: span.low + count - 1n, digest: digest! }]
  }
  // The small blocks of many passes become one, once all in them was found as it was sealed.
  const merged = accounts.filter(({ again, suspect }) => again && !suspect).flatMap(mergeTail)
  for (const { span, digest } of await readDigests(connection, merged))
    span.account.blocks.push({ to: span.high, digest })
}

/** Its sealed blocks; where nothing was posted since, the last goes to the end, where nothing should be. */
function sealedSpansOf(account: Work): (Span<Work> & { digest: string })[] {
  const spans = sealedSpans(account)
  // From the start, before which there should be nothing either.
  if (spans[0]) spans[0].low = -NO_END
  const end = spans.at(-1)
  if (end && account.sealed?.seq === account.seq) end.high = NO_END
  return spans
}

function newSpans(account: Work): NewSpan[] {
  const { sealed, seq } = account
  if (sealed && sealed.seq === seq && sealed.blocks.length > 0) return []
  const spans = spansBetween(account, (sealed?.seq ?? 0n) + 1n, seq)
  spans[0]!.opened = sealed?.balanceMinor ?? 0n
  // To the end, behind which there should be nothing.
  spans.at(-1)!.high = NO_END
  return spans
}

/** Drops the blocks behind the last one that is full, if there are several, and returns the spans that replace them. */
function mergeTail(account: Work): Span<Work>[] {
  const full = account.blocks.findIndex(({ to }, i) => to !== ENTRIES_A_BLOCK * BigInt(i + 1))
  if (full === -1 || full === account.blocks.length - 1) return []
  const end = account.blocks.at(-1)!.to
  account.blocks = account.blocks.slice(0, full)
  return spansBetween(account, ENTRIES_A_BLOCK * BigInt(full) + 1n, end)
}

/** One span at least. */
function spansBetween(account: Work, from: bigint, to: bigint): NewSpan[] {
  const spans: NewSpan[] = []
  for (let low = from; low === from || low <= to; low += ENTRIES_A_BLOCK) {
    const high = low + ENTRIES_A_BLOCK - 1n
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
  const since = last?.ofThisCluster ? last.snapshot : undefined
  // What the last seal saw cannot be behind what it sealed of the account. Without one the index alone is read.
  const moved = since === undefined ? 'false' : '(xid < $7::xid8 and xid <> all($8::xid8[]))'
  await connection.query('savepoint before_sums')
  try {
    const rows = await sendForText(
      connection,
      since === undefined ? 'ledger_first_entries' : 'ledger_new_entries',
      `select e.* from ${SPANS}, $6::bigint[])
         with ordinality as s(tenant_id, account_id, low, high, currency, opened, nth),
       lateral (
         select count(*) as count, coalesce(sum(e.amount_minor), 0)::bigint as sum,
           coalesce(min(e.seq) <> s.low or max(e.seq) - s.low + 1 <> count(*) or bool_or(e.flaw), false) as flaws,
           encode(sha256(string_agg(${ENTRY_BYTES}, '')), 'hex') as digest
         from (
           select *, ${moved} or currency <> s.currency or posted_at > now() + interval '5 minutes'
             or balance_minor - amount_minor is distinct from lag(balance_minor, 1, coalesce(s.opened, (
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
    return rows.map(([count, sum, flaws, digest], i) => ({
      span: spans[i]!,
      count: BigInt(count!),
      sum: BigInt(sum!),
      flaws: flaws === 't',
      digest: digest ?? null,
    }))
  } catch (error) {
    if ((error as { code?: string }).code !== NUMERIC_VALUE_OUT_OF_RANGE) throw error
    // Amounts that no post could have made: each account of these is looked at by itself.
    await connection.query('rollback to savepoint before_sums')
    return spans.map((span) => ({ span, count: 0n, sum: 0n, flaws: true, digest: null }))
  }
}
