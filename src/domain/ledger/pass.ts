import type { Connection } from '../../adapters/postgres/client.ts'
import { parseSnapshot } from '../outbox/position.ts'
import { sendForText } from '../outbox/window.ts'
import {
  arrayOf,
  changedSpans,
  changedStretches,
  ENTRY_BYTES,
  inWindow,
  NO_END,
  Pace,
  type Place,
  readDigests,
  rowsOf,
  SPANS,
  type Span,
  sealedSpans,
  spansBetween,
  spanValues,
  TRANSACTIONS_DIGEST,
  tailSpans,
  transactionsBetween,
  WITHIN,
  type Window,
  windowValues,
} from './digest.ts'
import { rewrittenAccounts, type SuspectTransaction } from './examine.ts'
import { approvedMenders, mendedBy } from './faults.ts'
import { glanceOver } from './glance-pass.ts'
import {
  ACCOUNT_CODE,
  accountsOf,
  formatStretch,
  formatSuspect,
  formatTransactions,
  parseAccount,
  parseSuspect,
  type Seal,
  type SealedAccount,
  sealedAccounts,
  sealedStretches,
  sealLines,
} from './seal.ts'
import { changedTransactions } from './sealed-transactions.ts'
import {
  AccountBook,
  isDue,
  NIL,
  NUMERIC_VALUE_OUT_OF_RANGE,
  type PassOptions,
  type Sighting,
  seenBy,
  TRANSACTIONS_A_BLOCK,
  type Turn,
  turnOf,
  type VerifyScope,
} from './sighting.ts'

const ACCOUNTS_A_PAGE = 4_000
// More are one catastrophe, not as many cases.
const MOST_SUSPECTS = 200

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
  for (const plan of ['seqscan', 'bitmapscan', 'hashjoin', 'hashagg', 'material', 'memoize']) {
    await connection.query('select set_config($1, $2, true)', [`enable_${plan}`, 'off'])
  }
  await connection.query(
    `select set_config('jit', 'off', true), set_config('max_parallel_workers_per_gather', '0', true),
       set_config('plan_cache_mode', 'force_generic_plan', true)`,
  )
  const [now] = await connection.query<{ snapshot: string }>('select pg_current_snapshot()::text as snapshot')
  const nothing = (): Sighting => ({
    snapshot: now!.snapshot,
    accounts: 0,
    entries: 0,
    transactions: 0,
    newEntries: 0,
    sealedEntries: 0,
    looks: { looks: 0, compacted: 0 },
    suspects: { accounts: [], transactions: [], blocks: [], stretches: [], strays: false },
  })
  const { scope, last, writer } = options
  const whole = scope.accountId === undefined && scope.tenantId === undefined && scope.since === undefined
  if (whole && last?.ofThisCluster) {
    const seen = await glanceOver(connection, { ...options, last }, nothing())
    if (seen) return seen
    await writer?.restart()
  }
  const sighting = nothing()
  const turn = turnOf(options)
  const posted = await passTransactions(connection, sighting, options, turn)
  await passStretches(connection, sighting, options)
  await passAccounts(connection, sighting, options, turn)
  const known = whole ? await countKnownStrays(connection, last) : 0
  sighting.suspects.strays = whole && posted + known !== sighting.newEntries
  return sighting
}

/** New transactions: each sums to zero, and they get digests; sealed ones: theirs are the same. Returns the entries of the new ones. */
async function passTransactions(
  connection: Connection,
  sighting: Sighting,
  options: PassOptions,
  turn: Turn,
): Promise<number> {
  const { scope, last, writer, clearsTransaction, signal } = options
  const suspects: SuspectTransaction[] = []
  for await (const block of changedTransactions(connection, options, sighting, turn))
    sighting.suspects.blocks.push(block)

  let entries = 0
  const window = { since: seenBy(last), until: sighting.snapshot }
  const pace = new Pace({ rowsAtFirst: 1_000, mostRows: TRANSACTIONS_A_BLOCK })
  let after = { xid: parseSnapshot(window.since).xmin, id: NIL }
  if (scope.accountId !== undefined) return entries
  for (;;) {
    signal?.throwIfAborted()
    const page = await nextPage(connection, after, window, pace.rows)
    if (page === undefined) break
    const seen = await pace.time(pace.rows, () => readTransactions(connection, page, window, scope.tenantId))
    const { count, digest } = seen
    sighting.transactions += count
    entries += seen.entries
    suspects.push(...(seen.suspects ?? []).map(([tenantId, id]) => ({ tenantId, id })))
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
  for await (const lines of last ? sealLines(last.path, 's') : []) suspects.push(...lines.map(parseSuspect))
  for (const suspect of suspects) {
    if (suspects.length < MOST_SUSPECTS && (await clearsTransaction(suspect))) continue
    sighting.suspects.transactions.push(suspect)
    await writer?.write(formatSuspect(suspect))
  }
  return entries
}

/** Entries that were sealed in the order of posting, and are in their accounts' blocks after this look. */
async function passStretches(
  connection: Connection,
  { suspects }: Sighting,
  { last, writer, signal }: PassOptions,
): Promise<void> {
  if (last === undefined) return
  const sealed = await sealedStretches(last)
  suspects.stretches = await changedStretches(connection, sealed, signal)
  for (const stretch of sealed) {
    if (stretch.look > (last.compacted ?? 0)) await writer?.write(formatStretch(stretch))
  }
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
    `select ${TRANSACTIONS_DIGEST} from ${transactionsBetween(inWindow(5))}`,
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

/** How long the statements of a pass over accounts take, by their kinds. */
const paces = () => ({ sealed: new Pace(), fresh: new Pace({ rowsAtFirst: 4_000 }) })

/** Every account against its seal and its balance, with its new entries and, where it is its turn, its sealed ones. */
async function passAccounts(
  connection: Connection,
  sighting: Sighting,
  { scope, last, writer, clearsAccount, signal }: PassOptions,
  turn: Turn,
): Promise<void> {
  const { suspects } = sighting
  const pace = paces()
  // Whose sealed entries were changed before they came into its blocks is found by reading those of all.
  const tampered = await rewrittenAccounts(connection, last, suspects.stretches)
  const closely = suspects.stretches.length > 0
  const book = new AccountBook(writer)
  let batch: Work[] = []
  let entries = 0
  const settle = async () => {
    signal?.throwIfAborted()
    await readEntries(connection, batch, last, pace, closely)
    for (const work of batch) {
      let holds = !work.suspect && addsUp(work)
      sighting.newEntries += work.suspect ? await countNew(connection, work, last) : Number(work.count)
      if (work.again) sighting.sealedEntries += Number(work.sealed?.seq ?? 0n)
      if (
        !holds &&
        suspects.accounts.length < MOST_SUSPECTS &&
        (await clearsAccount(work, suspects.stretches))
      ) {
        // Its faults are known and made up for: sealed as it is.
        work.blocks = []
        await digestAnew(connection, spansBetween(work, 1n, work.seq), pace.sealed)
        holds = true
      }
      if (!holds) suspects.accounts.push(work)
      work.compacted = turn.next
      await book.add(holds ? work : heldBack(work, last))
    }
    batch = []
    entries = 0
  }

  await using seals = new SealedAccounts(last, scope)
  const missing = (sealed: SealedAccount) => {
    const work = workOn(sealed, sealed, false)
    work.suspect = true
    batch.push(work)
  }
  let nth = 0
  for await (const page of accountLines(connection, scope)) {
    for (const line of page) {
      const now = parseAccount(line)
      const key = keyOf(now)
      let next = await seals.key()
      for (; next !== undefined && next < key; next = await seals.key()) missing(seals.take())
      const sealed = next === key ? seals.take() : undefined
      const again = closely || isDue(turn, nth++, sealed?.compacted ?? turn.looks)
      const work = workOn(now, sealed, again)
      work.suspect ||= tampered.has(key)
      batch.push(work)
      sighting.accounts += 1
      sighting.entries += Number(now.seq)
      entries += Number(now.seq - (again ? 0n : (sealed?.seq ?? 0n)))
      if (entries >= pace.sealed.rows || batch.length >= ACCOUNTS_A_PAGE) await settle()
    }
  }
  while ((await seals.key()) !== undefined) missing(seals.take())
  await settle()
  await book.flush()
  sighting.looks = { looks: turn.looks, compacted: Math.min(book.compacted, turn.next) }
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
    compacted: sealed?.compacted ?? 0,
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
    const [[page]] = (await sendForText(
      connection,
      'ledger_accounts',
      `select string_agg(concat_ws(' ', 'a', tenant_id, id, currency, opening_minor, code, seq, balance_minor, '- '), E'\\n') from (
       select a.tenant_id, a.id, a.currency, a.opening_minor, ${ACCOUNT_CODE} as code, coalesce(b.seq, 0) as seq,
         coalesce(b.balance_minor, 0) as balance_minor
       from billing.account a left join billing.balance b on b.tenant_id = a.tenant_id and b.account_id = a.id
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

/** Tenant and account: what accounts are in the order of. */
const keyOf = ({ tenantId, accountId }: Pick<SealedAccount, 'tenantId' | 'accountId'>) =>
  `${tenantId} ${accountId}`

/** The last seal's accounts, one by one. */
class SealedAccounts implements AsyncDisposable {
  readonly #pages: AsyncGenerator<Parameters<typeof accountsOf>[0] | SealedAccount> | undefined
  readonly #wanted: (account: SealedAccount) => boolean
  #page: SealedAccount[] = []
  #next = 0

  constructor(last: Seal | undefined, { tenantId, accountId, since }: VerifyScope) {
    // Which account was posted to since then is asked of what is there.
    this.#pages = last && since === undefined ? sealedAccounts(last) : undefined
    this.#wanted = (account) =>
      (tenantId === undefined || account.tenantId === tenantId) &&
      (accountId === undefined || account.accountId === accountId)
  }

  async key(): Promise<string | undefined> {
    while (this.#next === this.#page.length) {
      const read = await this.#pages?.next()
      if (read === undefined || read.done) return undefined
      this.#page = ('ids' in read.value ? accountsOf(read.value) : [read.value]).filter(this.#wanted)
      this.#next = 0
    }
    return keyOf(this.#page[this.#next]!)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pages?.return(undefined)
  }

  take(): SealedAccount {
    return this.#page[this.#next++]!
  }
}

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
  closely: boolean,
): Promise<void> {
  const sealed = accounts.filter(({ again, suspect }) => again && !suspect).flatMap(sealedSpansOf)
  for (const { items, rows } of pace.sealed.slices(sealed, rowsOf)) {
    const changed = await pace.sealed.time(rows, () => changedSpans(connection, items))
    for (const { account } of changed) account.suspect = true
  }
  const loose = accounts.filter(({ suspect }) => !suspect).flatMap(looseSpans)
  if (closely) {
    for (const { items, rows } of pace.fresh.slices(loose, rowsOf)) {
      const found = await pace.fresh.time(rows, () => readNew(connection, items, last, 'sealed'))
      for (const { span, count, flaws } of found) {
        if (flaws || count !== BigInt(rowsOf(span))) span.account.suspect = true
      }
    }
  }
  await digestAnew(
    connection,
    loose.filter(({ account }) => !account.suspect),
    pace.sealed,
  )
  const fresh = accounts.filter(({ suspect }) => !suspect).flatMap(newSpans)
  for (const { items, rows } of pace.fresh.slices(fresh, rowsOf)) {
    const found = await pace.fresh.time(rows, () => readNew(connection, items, last))
    for (const { span, count, sum, flaws, digest } of found) {
      const { account } = span
      if (flaws) account.suspect = true
      account.count += count
      account.sum += sum
      if (count > 0n) account.blocks = [...account.blocks, { to: span.low + count - 1n, digest: digest! }]
    }
  }
  // The small blocks of many passes become one, once all in them was found as it was sealed.
  await digestAnew(
    connection,
    accounts.filter(({ again, suspect }) => again && !suspect).flatMap(tailSpans),
    pace.sealed,
  )
}

/** Appends the digest of each span to its account's blocks. */
async function digestAnew(connection: Connection, spans: Span<Work>[], pace: Pace): Promise<void> {
  for (const { items, rows } of pace.slices(spans, rowsOf)) {
    for (const { span, digest } of await pace.time(rows, () => readDigests(connection, items))) {
      if (span.high < span.low && digest === '') continue
      if (digest.length < 64) span.account.suspect = true
      span.account.blocks = [...span.account.blocks, { to: span.high, digest }]
    }
  }
}

/** Its sealed blocks; where nothing was posted since, the last goes to the end, where nothing should be. */
function sealedSpansOf(account: Work): (Span<Work> & { digest: string })[] {
  const spans = sealedSpans(account)
  const end = spans.at(-1)
  if (end?.high === account.seq) end.until = NO_END
  return spans
}

/** What is sealed in the order of posting alone. */
function looseSpans(account: Work): NewSpan[] {
  const sealedSeq = account.sealed?.seq ?? 0n
  const to = account.blocks.at(-1)?.to ?? 0n
  // A balance that went back is found by what it is.
  if (to >= sealedSeq || account.seq < sealedSeq) return []
  return spansBetween(account, to + 1n, sealedSeq).map((span) => ({
    ...span,
    opened: to === 0n && span.low === 1n ? 0n : null,
  }))
}

function newSpans(account: Work): NewSpan[] {
  const { sealed, seq } = account
  if (sealed && sealed.seq === seq && sealed.blocks.at(-1)?.to === seq) return []
  const spans = spansBetween(account, (sealed?.seq ?? 0n) + 1n, seq).map((span) => ({
    ...span,
    opened: null as bigint | null,
  }))
  spans[0]!.opened = sealed?.balanceMinor ?? 0n
  // To the end, behind which there should be nothing.
  spans.at(-1)!.until = NO_END
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
  which: 'new' | 'sealed' = 'new',
): Promise<NewEntries[]> {
  if (spans.length === 0) return []
  await connection.query('savepoint before_sums')
  try {
    const rows = await readClosely(connection, spans, last, which)
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
      ...(await readNew(connection, spans.slice(0, half), last, which)),
      ...(await readNew(connection, spans.slice(half), last, which)),
    ]
  }
}

/** Each balance against the one before, and each entry against what the last seal saw. */
function readClosely(
  connection: Connection,
  spans: NewSpan[],
  last: Seal | undefined,
  which: 'new' | 'sealed',
): Promise<string[][]> {
  const since = last?.ofThisCluster ? last.snapshot : undefined
  // What the last seal saw cannot be behind what it sealed of the account, nor anything else be in it. Without one the index
  // alone is read.
  const seen = '(xid < $8::xid8 and xid <> all($9::xid8[]))'
  const moved = since === undefined ? 'false' : which === 'new' ? seen : `not ${seen}`
  return sendForText(
    connection,
    since === undefined ? 'ledger_first_entries' : `ledger_${which}_entries`,
    `select e.* from ${SPANS}, $7::bigint[])
       with ordinality as s(tenant_id, account_id, low, high, currency, until, opened, nth),
     lateral (
       select count(*) as count, coalesce(sum(e.amount_minor), 0)::bigint as sum,
         coalesce(min(e.seq) <> s.low or max(e.seq) - s.low + 1 <> count(*) or bool_or(e.flaw), false) as flaws,
         encode(sha256(string_agg(${ENTRY_BYTES}, null)), 'hex') as digest
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
