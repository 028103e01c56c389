import { generatePrimeSync, randomInt } from 'node:crypto'
import type { Connection } from '../../adapters/postgres/client.ts'
import { parseSnapshot, sendForText } from '../outbox/window.ts'
import {
  areAsSealed,
  arrayOf,
  changedSpans,
  ENTRY_BYTES,
  inWindow,
  type Resting,
  readDigests,
  SPANS,
  type Span,
  sealedSpans,
  spanValues,
  TRANSACTION_COLUMNS,
  TRANSACTIONS_DIGEST,
  WITHIN,
  windowValues,
} from './digest.ts'
import type { SuspectAccount, SuspectTransaction } from './examine.ts'
import { approvedMenders, mendedBy } from './faults.ts'
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
const ENTRIES_A_BLOCK = 1_000n
const TRANSACTIONS_A_BLOCK = 10_000
const ACCOUNTS_A_PAGE = 1_000
// Some 50 ms of a statement.
const ENTRIES_A_STATEMENT = 100_000n
// A ledger so small is verified whole each time; of a larger one every pass takes its share of a week.
const ENTRIES_A_PASS = 2_000_000
const PASSES_A_ROUND = 7
const NEVER = -1
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

/**
 * What a first look needs. It adds up what has to agree, each time with other random weights, instead of holding every
 * transaction against its entries: that entries and transactions are the same by the sum of hashes, that each
 * transaction sums to zero by the sum of amounts times a hash of it, modulo a prime (Freivalds' check), that balances
 * follow from one another by hashes of each before and after. Whoever tampers does not know the weights, so what is not
 * right agrees by a chance of one to two thousand million. In the slightest doubt all is looked at closely.
 */
interface Glance {
  seed: bigint
  prime: bigint
  /** Nothing new is older, but for what was long under way: then a close look decides. */
  since: Date
}

const newGlance = ({ iat }: Seal): Glance => ({
  seed: BigInt(randomInt(2 ** 47)),
  prime: generatePrimeSync(31, { bigint: true }),
  since: new Date((iat - 3_600) * 1_000),
})

/** What new entries add up to, seen from accounts or from transactions. */
interface Tally {
  entries: number
  /** Sum of the hashes of their transactions. */
  marks: bigint
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
  const of = whole && !scope.full && (last?.entries ?? 0) > ENTRIES_A_PASS ? PASSES_A_ROUND : 1
  const turn = { of, now: scope.quick ? NEVER : (last?.n ?? 0) % of }
  const posted = await passTransactions(connection, sighting, options, turn, glance)
  const { suspects } = sighting
  if (glance && suspects.transactions.length > 0) return undefined
  const entered = await passAccounts(connection, sighting, options, turn, glance)
  if (glance) {
    const agree = entered && posted.entries === entered.entries && posted.marks === entered.marks
    return agree && suspects.accounts.length + suspects.transactions.length === 0 ? sighting : undefined
  }
  const known = whole ? await countKnownStrays(connection, last) : 0
  suspects.strays = whole && posted.entries + known !== sighting.newEntries
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
  glance: Glance | undefined,
): Promise<Tally> {
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
         from (select ${TRANSACTION_COLUMNS} from billing.journal_transaction
               where (xid, id) >= ($1::xid8, $2::uuid) and (xid, id) <= ($3::xid8, $4::uuid) and ${inWindow(5)}
               order by xid, id) t`,
        [block.from.xid, block.from.id, block.to.xid, block.to.id, ...windowValues(block)],
        'ledger_sealed_transactions',
      )
      if (found!.digest !== block.digest) sighting.suspects.blocks.push(block)
    }
  }

  const window = { since: seenBy(last), until: sighting.snapshot }
  const tally: Tally = { entries: 0, marks: 0n }
  let after = { xid: parseSnapshot(window.since).xmin, id: NIL }
  if (scope.accountId !== undefined) return tally
  for (;;) {
    signal?.throwIfAborted()
    const page = glance
      ? await glanceAtTransactions(connection, after, window, glance)
      : await readTransactions(connection, after, window, scope.tenantId)
    const { count, digest } = page
    if (count === 0) break
    tally.entries += page.entries
    tally.marks += BigInt(page.marks)
    sighting.transactions += count
    suspects.push(...(page.suspects ?? []).map(([tenantId, id]) => ({ tenantId, id })))
    const [from, to] = [page.from, page.to].map(([xid, id]) => ({ xid: xid!, id: id! })) as [
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
    if (!glance && suspects.length < MOST_SUSPECTS && (await clearsTransaction(suspect))) continue
    sighting.suspects.transactions.push(suspect)
    await writer?.write(formatSuspect(suspect))
  }
  return tally
}

interface TransactionsPage {
  count: number
  entries: number
  marks: string
  /** xid and id of the first and the last. */
  from: string[]
  to: string[]
  digest: string
  /** Tenant and id. */
  suspects: [string, string][] | null
}

type Place = { xid: string; id: string }
type Window = { since: string; until: string }

const PLACES = `(select array[xid::text, id::text] from t limit 1) as from,
  (select array[xid::text, id::text] from t offset greatest((select count(*) from t) - 1, 0)) as to`

/** The next new transactions with how many entries each has, by an index alone; what they sum to shows in the accounts. */
async function glanceAtTransactions(
  connection: Connection,
  after: Place,
  window: Window,
  { seed, since }: Glance,
): Promise<TransactionsPage> {
  // Entries of a stretch of time, tenant by tenant, are met with it by hashes: to look each up costs three times as much.
  await connection.query(
    `select set_config('enable_hashjoin', 'on', true), set_config('enable_hashagg', 'on', true)`,
  )
  const [page] = await connection.query<TransactionsPage>(
    `with t as materialized (
       select ${TRANSACTION_COLUMNS} from billing.journal_transaction
       where (xid, id) > ($1::xid8, $2::uuid) and ${inWindow(3)}
       order by xid, id limit ${TRANSACTIONS_A_BLOCK}),
     stretch as materialized (
       select tenant_id, (select id from t order by id limit 1) as low, (select id from t order by id desc limit 1) as high
       from t group by tenant_id),
     own as (
       select stretch.tenant_id, e.* from stretch, lateral (
         select transaction_id, count(*) as n, min(xid) as first, max(xid) as last from billing.entry e
         where e.tenant_id = stretch.tenant_id and e.transaction_id between stretch.low and stretch.high
         group by transaction_id) e)
     select count(*)::int as count, coalesce(sum(own.n), 0)::float8 as entries,
       coalesce(sum(own.n * ${mark('t.tenant_id', 't.id', '$7')}), 0)::text as marks,
       ${PLACES}, (select ${TRANSACTIONS_DIGEST} from t) as digest,
       json_agg(json_build_array(t.tenant_id, t.id)) filter (where own.n is null or own.first <> t.xid
         or own.last <> t.xid or t.posted_at < $8::timestamptz or t.posted_at > now() + interval '5 minutes') as suspects
     from t left join own on own.tenant_id = t.tenant_id and own.transaction_id = t.id`,
    [after.xid, after.id, ...windowValues(window), seed, since],
    'ledger_glance_transactions',
  )
  await connection.query(
    `select set_config('enable_hashjoin', 'off', true), set_config('enable_hashagg', 'off', true)`,
  )
  return page!
}

/** 40 bits of a transaction, other ones for each seed. */
const mark = (tenant: string, id: string, seed: string) =>
  `(uuid_hash_extended(${id}, uuid_hash_extended(${tenant}, ${seed}::bigint)) & 1099511627775)`

/** The next new transactions, each held against its entries. */
async function readTransactions(
  connection: Connection,
  after: Place,
  window: Window,
  tenantId: string | undefined,
): Promise<TransactionsPage> {
  const [page] = await connection.query<TransactionsPage>(
    `with t as materialized (
         select * from billing.journal_transaction
         where (xid, id) > ($1::xid8, $2::uuid) and ${inWindow(3)} and ($7::uuid is null or tenant_id = $7)
         order by xid, id limit ${TRANSACTIONS_A_BLOCK})
       select count(*)::int as count, coalesce(sum(e.n), 0)::float8 as entries, '0' as marks, ${PLACES},
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
    [after.xid, after.id, ...windowValues(window), tenantId ?? null],
    'ledger_new_transactions',
  )
  return page!
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
): Promise<Tally | undefined> {
  const { suspects } = sighting
  const tally: Tally = { entries: 0, marks: 0n }
  // In each currency, what should be nothing.
  const weighed = new Map<string, bigint>()
  // Lines of the next seal in their order; those that are ready as text, and those of accounts at rest whose turn it is.
  let batch: (Work | Growth | string | { rests: string })[] = []
  let entries = 0n
  const settle = async () => {
    signal?.throwIfAborted()
    const resting = batch.flatMap((one) => (typeof one !== 'string' && 'rests' in one ? one.rests : []))
    const asSealed = await restAsSealed(connection, resting)
    const works = batch.map((one) =>
      typeof one === 'string' || !('rests' in one) ? one : asSealed ? one.rests : workAtRest(one.rests),
    )
    const accounts = works.filter(isWork)
    const found = await readEntries(connection, accounts, last)
    if (glance) {
      const grown = works.filter(isGrowth)
      const seen = [
        ...(await glanceAtGrowth(connection, grown, glance)),
        ...(await glanceAtSpans(connection, found, glance)),
      ]
      for (const { currency, entries, marks, weight } of seen) {
        tally.entries += entries
        tally.marks += marks
        weighed.set(currency, (weighed.get(currency) ?? 0n) + weight)
      }
    }
    if (asSealed) sighting.sealedEntries += resting.reduce((sum, line) => sum + seqOf(line), 0)
    for (const work of works) {
      if (typeof work === 'string') {
        await writer?.write(work)
        continue
      }
      if (isGrowth(work)) {
        if (work.digest === '') {
          suspects.accounts.push(workOn(parseAccount(`${work.line} - `), undefined, false))
          return
        }
        sighting.newEntries += work.high - work.low + 1
        await writer?.write(`${work.line} - ${work.blocks}${work.high}:${work.digest}`)
        continue
      }
      let holds = !work.suspect && addsUp(work)
      if (!holds && glance) {
        suspects.accounts.push(work)
        return
      }
      sighting.newEntries += work.suspect ? await countNew(connection, work, last) : Number(work.count)
      if (work.again) sighting.sealedEntries += Number(work.sealed?.seq ?? 0n)
      if (!holds && !glance && suspects.accounts.length < MOST_SUSPECTS && (await clearsAccount(work))) {
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

  await using seals = new SealedLines(last, scope)
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
      const seq = seqOf(line)
      sighting.entries += seq
      // An account at rest costs a comparison, until it is its turn.
      const rests = sealedLine?.startsWith(line) === true && sealedLine.startsWith(' - ', line.length)
      const growth = glance && !again && !rests ? growthOf(line, sealedLine) : undefined
      if (rests && !again) batch.push(sealedLine!)
      else if (rests && hasWholeBlocks(sealedLine!)) {
        batch.push({ rests: sealedLine! })
        entries += BigInt(seq)
      } else if (growth) {
        batch.push(growth)
        entries += BigInt(growth.high - growth.low)
      } else {
        const sealed = sealedLine === undefined ? undefined : parseAccount(sealedLine)
        const work = workOn(rests ? sealed! : parseAccount(`${line} - `), sealed, again)
        batch.push(work)
        entries += work.seq - (again ? 0n : (sealed?.seq ?? 0n))
      }
      if (entries >= ENTRIES_A_STATEMENT || batch.length >= ACCOUNTS_A_PAGE) await settle()
      if (glance && suspects.accounts.length > 0) return undefined
    }
  }
  while ((await seals.key()) !== undefined) missing(seals.take())
  await settle()
  if (glance && [...weighed.values()].some((sum) => sum % glance.prime !== 0n)) return undefined
  return tally
}

/** An account that differs from its seal by new entries alone, by what the two lines say. */
interface Growth {
  line: string
  tenantId: string
  accountId: string
  currency: string
  /** Of its new entries. */
  low: number
  high: number
  opened: string
  closing: string
  /** As the seal has them, with a comma behind. */
  blocks: string
  /** Of the new entries; empty where something is wrong with them. */
  digest: string
}

const isWork = (one: Work | Growth | string): one is Work => typeof one !== 'string' && 'again' in one
const isGrowth = (one: Work | Growth | string): one is Growth => typeof one !== 'string' && 'low' in one

function growthOf(line: string, sealedLine: string | undefined): Growth | undefined {
  const closingAt = line.lastIndexOf(' ') + 1
  const seqAt = line.lastIndexOf(' ', closingAt - 2) + 1
  const sealed = sealedLine === undefined ? ['0', '0', '-', ''] : sealedLine.slice(seqAt).split(' ')
  const [seq, opened, heldAt, blocks] = sealed as [string, string, string, string]
  const low = Number(seq) + 1
  const high = Number(line.slice(seqAt, closingAt))
  // All but what grows is as it was sealed, and it grew by a block at most.
  if (sealedLine !== undefined && (heldAt !== '-' || !sealedLine.startsWith(line.slice(0, seqAt))))
    return undefined
  if (!(high >= low && high - low < Number(ENTRIES_A_BLOCK))) return undefined
  return {
    line,
    tenantId: line.slice(2, 38),
    accountId: line.slice(39, 75),
    currency: line.slice(76, line.indexOf(' ', 76)),
    low,
    high,
    opened,
    closing: line.slice(closingAt),
    blocks: blocks && `${blocks},`,
    digest: '',
  }
}

/** What new entries add up to in one currency. */
interface Weighed extends Tally {
  currency: string
  /** Amounts times weights of their transactions. */
  weight: bigint
}

const WEIGHTS = `coalesce(sum(${mark('s.tenant_id', 'e.transaction_id', '$1')}), 0) as marks,
  coalesce(sum((e.amount_minor % $2::bigint) * (uuid_hash_extended(e.transaction_id, $1::bigint + 1) & 2147483647)), 0) as weight`

/**
 * Reads new entries by the index of the primary key alone, gives each account their digest, or none where its sequence has a
 * gap, balances do not follow from one another up to the account's own, or an entry is in another currency or time.
 */
async function glanceAtGrowth(
  connection: Connection,
  grown: Growth[],
  { seed, prime, since }: Glance,
): Promise<Weighed[]> {
  const seen: Weighed[] = []
  for (const [currency, some] of byCurrency(grown, (one) => one.currency)) {
    const [[digests, marks, weight]] = (await sendForText(
      connection,
      'ledger_glance_growth',
      `select string_agg(g.digest, ',' order by g.nth), sum(g.marks), sum(g.weight)
       from (
         select s.nth, e.* from unnest($5::uuid[], $6::uuid[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[])
           with ordinality as s(tenant_id, account_id, low, high, opened, closing, nth),
         lateral (
           select case when count(*) = s.high - s.low + 1 and min(e.seq) = s.low and max(e.seq) = s.high
               and s.opened + sum(e.amount_minor) = s.closing
               and count(*) filter (where e.currency <> $4 or e.posted_at < $3::timestamptz
                 or e.posted_at > (select now() + interval '5 minutes')) = 0
               and sum(hashint8extended(e.balance_minor, $1::bigint + e.seq)) + hashint8extended(s.opened, $1::bigint + s.low - 1)
                 = sum(hashint8extended(e.balance_minor - e.amount_minor, $1::bigint + e.seq - 1)) + hashint8extended(s.closing, $1::bigint + s.high)
             then encode(sha256(string_agg(${ENTRY_BYTES}, '')), 'hex') else '' end as digest,
             ${WEIGHTS}
           from (select seq, amount_minor, balance_minor, transaction_id, currency, posted_at from billing.entry e
                 where e.tenant_id = s.tenant_id and e.account_id = s.account_id and e.seq >= s.low order by seq) e) e) g`,
      [
        ...[seed, prime, since, currency],
        arrayOf(some, (one) => one.tenantId),
        arrayOf(some, (one) => one.accountId),
        arrayOf(some, (one) => String(one.low)),
        arrayOf(some, (one) => String(one.high)),
        arrayOf(some, (one) => one.opened),
        arrayOf(some, (one) => one.closing),
      ],
    )) as [[string, string, string]]
    const each = digests.split(',')
    let entries = 0
    some.forEach((one, i) => {
      one.digest = each[i]!
      entries += one.high - one.low + 1
    })
    seen.push({ currency, entries, marks: BigInt(marks), weight: BigInt(weight) })
  }
  return seen
}

/** What those add up to that were read closely, because their sealed entries were looked at as well. */
async function glanceAtSpans(
  connection: Connection,
  found: NewEntries[],
  { seed, prime }: Glance,
): Promise<Weighed[]> {
  const seen: Weighed[] = []
  for (const [currency, some] of byCurrency(found, ({ span }) => span.account.currency)) {
    const [[marks, weight]] = (await sendForText(
      connection,
      'ledger_glance_spans',
      `select coalesce(sum(e.marks), 0), coalesce(sum(e.weight), 0)
       from unnest($3::uuid[], $4::uuid[], $5::bigint[], $6::bigint[]) as s(tenant_id, account_id, low, high),
         lateral (select ${WEIGHTS} from billing.entry e where ${WITHIN}) e`,
      [seed, prime, ...spanValues(some.map(({ span }) => span)).slice(0, 4)],
    )) as [[string, string]]
    const entries = some.reduce((sum, { count }) => sum + Number(count), 0)
    seen.push({ currency, entries, marks: BigInt(marks), weight: BigInt(weight) })
  }
  return seen
}

function byCurrency<T>(all: T[], of: (one: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>()
  for (const one of all) {
    const group = groups.get(of(one))
    if (group) group.push(one)
    else groups.set(of(one), [one])
  }
  return groups
}

function workAtRest(line: string): Work {
  const sealed = parseAccount(line)
  return workOn(sealed, sealed, true)
}

/** Whether there is nothing to merge: all blocks but the last are full. */
function hasWholeBlocks(line: string): boolean {
  const blocks = line.split(',')
  return blocks.length === 1 ? !line.endsWith(' ') : parseAccount(line).blocks.slice(0, -1).every(isFull)
}

const isFull = ({ to }: Block, i: number) => to === ENTRIES_A_BLOCK * BigInt(i + 1)

/** Whether all entries of accounts at rest are as their lines in the seal say, by a few quick looks. */
async function restAsSealed(connection: Connection, lines: string[]): Promise<boolean> {
  let group: Resting | undefined
  const groups: Resting[] = []
  for (const line of lines) {
    const { tenantId, accountId, currency, blocks } = parseAccount(line)
    if (group?.tenantId !== tenantId || group.currency !== currency) {
      group = { tenantId, currency, accountIds: [], lows: [], highs: [], digests: [] }
      groups.push(group)
    }
    blocks.forEach(({ to, digest }, i) => {
      group!.accountIds.push(accountId)
      // From the start to the end: there should be nothing before and behind.
      group!.lows.push(i === 0 ? -NO_END : blocks[i - 1]!.to + 1n)
      group!.highs.push(i === blocks.length - 1 ? NO_END : to)
      group!.digests.push(digest)
    })
  }
  for (const one of groups) if (!(await areAsSealed(connection, one))) return false
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
  let after: (string | undefined)[] = [NIL, NIL]
  for (;;) {
    const [[page]] = (await sendForText(
      connection,
      'ledger_accounts',
      `select string_agg(concat_ws(' ', 'a', tenant_id, id, currency, opening_minor, code, seq, balance_minor), E'\\n') from (
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

/** Tenant and account: what the lines of accounts are in the order of. */
const keyOf = (line: string) => line.slice(2, 75)
/** The last but one word of an account's line as it is read; of one in a seal the seventh. */
const seqOf = (line: string) => Number(line.split(' ', 7)[6])

/** The last seal's lines of accounts, one by one. */
class SealedLines implements AsyncDisposable {
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
): Promise<NewEntries[]> {
  const sealed = accounts.filter(({ again, suspect }) => again && !suspect).flatMap(sealedSpansOf)
  for (const { account } of await changedSpans(connection, sealed)) account.suspect = true
  const fresh = accounts.filter(({ suspect }) => !suspect).flatMap(newSpans)
  const found = await readNew(connection, fresh, last)
  for (const { span, count, sum, flaws, digest } of found) {
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
  return found
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
  const full = account.blocks.findIndex((block, i) => !isFull(block, i))
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
  const moved = since === undefined ? 'false' : '(xid < $7::xid8 and xid <> all($8::xid8[]))'
  return sendForText(
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
