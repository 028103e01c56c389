import type { Queryable } from '../../adapters/postgres/client.ts'
import { parseSnapshot } from '../outbox/position.ts'
import type { SealedAccount, SealedTransactions, Stretch } from './seal.ts'

/**
 * What an entry's part of a digest is; its account and sequence follow from its place. Of the row `e`. In pairs, and put together
 * with a null between, which takes less than nothing between.
 */
export const ENTRY_BYTES =
  '(int8send(e.amount_minor) || int8send(e.balance_minor)) || (timestamptz_send(e.posted_at) || uuid_send(e.transaction_id))'
/**
 * The digest that seals of before have of transactions, of rows `t` in their order. Keys with line breaks could pass for
 * others; a digest of now begins with `2:`.
 */
const DIGEST_OF_BEFORE = `encode(sha256(
  string_agg(uuid_send(t.tenant_id) || uuid_send(t.id) || timestamptz_send(t.posted_at), '')
  || coalesce(string_agg(uuid_send(t.id) || uuid_send(t.reverses), '') filter (where t.reverses is not null), '') || 'i'
  || coalesce(string_agg(uuid_send(t.id) || uuid_send(t.incident_id), '') filter (where t.incident_id is not null), '')
  || convert_to(string_agg(t.kind || ' ' || t.business_key, E'\\n'), 'UTF8')), 'hex')`
/** What a digest of transactions reads, all of which the index `journal_transaction_xid` holds. */
const TRANSACTION_COLUMNS = 'xid, id, tenant_id, posted_at, kind, business_key, reverses, incident_id'
/** Transactions from one place to another, in the order of both; values at `$1` to `$4`, of their window from `$5` on. */
export const transactionsBetween = (window: string) => `(
  select ${TRANSACTION_COLUMNS} from billing.journal_transaction
  where (xid, id) >= ($1::xid8, $2::uuid) and (xid, id) <= ($3::xid8, $4::uuid) and ${window}
  order by xid, id) t`
/** So many transactions at most behind a place at `$1` and `$2`, of their window from `$3` on. */
export const transactionsBehind = (rows: number) => `(
  select ${TRANSACTION_COLUMNS} from billing.journal_transaction
  where (xid, id) > ($1::xid8, $2::uuid) and ${inWindow(3)}
  order by xid, id limit ${rows}) t`

/**
 * Number and digest of transactions, as two of a `select` list over rows `t` in their order. A row is tenant, id and time, of
 * fixed length, then the key and a byte that no UTF-8 has; kinds, which are short, stand by themselves, and so does what few
 * rows have.
 */
export const TRANSACTIONS_DIGEST = `
  count(*)::int as count, '2:' || encode(sha256(
    sha256(string_agg(uuid_send(t.tenant_id) || uuid_send(t.id) || timestamptz_send(t.posted_at) || textsend(t.business_key), '\\xff'))
    || sha256(string_agg(textsend(t.kind), '\\xff'))
    || sha256(coalesce(string_agg(uuid_send(t.id) || coalesce('\\x01' || uuid_send(t.reverses), '\\x00')
      || coalesce('\\x01' || uuid_send(t.incident_id), '\\x00'), '') filter (where t.reverses is not null or t.incident_id is not null), ''))
  ), 'hex') as digest`

// 40,000 transactions as a rule.
const BLOCKS_AT_ONCE = 4

/**
 * Sealed blocks whose transactions are not as they were: as many from where one begins have another digest than it was
 * sealed with, in the way in which it was. To hold each against where the block ends as well would take a third longer.
 */
export async function changedBlocks(
  db: Queryable,
  blocks: SealedTransactions[],
  signal?: AbortSignal,
): Promise<SealedTransactions[]> {
  const changed: SealedTransactions[] = []
  for (const { way, some } of inSameWay(blocks)) {
    signal?.throwIfAborted()
    const { ofNow, whole } = way
    const rows = await db.query<{ nth: number }>(
      `select b.nth::int as nth
       from unnest($1::xid8[], $2::uuid[], $3::bigint[], $4::text[]) with ordinality as b(xid, id, count, digest, nth), lateral (
         select ${ofNow ? TRANSACTIONS_DIGEST : `${DIGEST_OF_BEFORE} as digest`} from (
           select ${TRANSACTION_COLUMNS} from billing.journal_transaction
           where (xid, id) >= (b.xid, b.id) and ${whole ? 'true' : inWindow(5)}
           order by xid, id limit b.count) t) now
       where now.digest is distinct from b.digest`,
      [
        some.map(({ from }) => from.xid),
        some.map(({ from }) => from.id),
        some.map(({ count }) => count),
        some.map(({ digest }) => digest),
        ...(whole ? [] : windowValues(some[0]!)),
      ],
      `ledger_sealed_${whole ? 'all' : 'some'}_${ofNow ? 2 : 1}`,
    )
    changed.push(...rows.map(({ nth }) => some[nth - 1]!))
  }
  return changed
}

/** So many of them at once, one after another, as are read by one statement with one window. */
function* inSameWay(blocks: SealedTransactions[]) {
  const wayOf = (block: SealedTransactions) => ({
    ofNow: block.digest.startsWith('2:'),
    // To ask of each transaction whether it is in the window takes a fifth of the time.
    whole: isWholeWindow(block),
  })
  for (let i = 0; i < blocks.length; ) {
    const way = wayOf(blocks[i]!)
    const some = [blocks[i++]!]
    const fits = (block: SealedTransactions) => {
      const { ofNow, whole } = wayOf(block)
      const sameWindow = block.since === some[0]!.since && block.until === some[0]!.until
      return ofNow === way.ofNow && whole === way.whole && (whole || sameWindow)
    }
    while (i < blocks.length && some.length < BLOCKS_AT_ONCE && fits(blocks[i]!)) some.push(blocks[i++]!)
    yield { way, some }
  }
}

/** What an entry is in the digest of a stretch, behind its transaction; its currency is its account's. Of the row `e`. */
const POSTED_BYTES =
  'uuid_send(e.account_id) || ((int8send(e.seq) || int8send(e.amount_minor)) || (int8send(e.balance_minor) || timestamptz_send(e.posted_at)))'

/** A further condition on entries `e`, and further columns of `stretchDigest` with a `salt` of tenants for them: of an entry `e`, of the entries of a transaction, of the transactions `t` of a tenant, of all. */
interface StretchSums {
  where?: string
  salt?: string
  entry?: string
  transaction?: string
  tenant?: string
  all?: string
}

/**
 * A statement for number and digest of the entries whose transactions began between two moments, in the order of posting, by
 * an index alone. Transactions bear the time in their ids (RFC 9562, version 7).
 * @see stretchValues
 */
export const stretchDigest = ({
  where = 'true',
  salt,
  entry,
  transaction,
  tenant,
  all,
}: StretchSums = {}) => {
  const and = (more: string | undefined) => (more === undefined ? '' : `, ${more}`)
  return `
  select coalesce(sum(own.n), 0)::text as count,
    coalesce(encode(sha256(string_agg(uuid_send(tenant.id) || own.digest, '')), 'hex'), '') as digest ${and(all)}
  from (select id${salt === undefined ? '' : `, ${salt} as salt`} from unnest($7::uuid[]) id offset 0) tenant, lateral (
    select sum(t.n) as n, sha256(string_agg(uuid_send(t.transaction_id) || t.bytes, null)) as digest ${and(tenant)}
    from (
      select e.transaction_id, count(*) as n, string_agg(${POSTED_BYTES}, null) as bytes ${and(transaction)}
      from (
        select e.* ${and(entry)} from (
          select transaction_id, account_id, seq, amount_minor, balance_minor, posted_at, currency, xid
          from billing.entry
          e where e.tenant_id = tenant.id and ${inStretch(1)} and ${where}
        ) e order by transaction_id, account_id, seq
      ) e group by e.transaction_id
    ) t
  ) own where own.n > 0`
}

/** Parameters `$1` to `$7` of `stretchDigest`. */
export const stretchValues = (stretch: Window & { from: Date; to: Date }, tenantIds: string[]): unknown[] => [
  ...inStretchValues(stretch),
  tenantIds,
]

/** Of an entry `e`: that it is in a stretch, by the values at `$n` to `$n+5`. */
export const inStretch = (n: number) =>
  `e.transaction_id >= $${n}::uuid and e.transaction_id < $${n + 1}::uuid and ${inWindow(n + 2, 'e.xid')}`

/** @see inStretch */
export const inStretchValues = ({ from, to, ...window }: Window & { from: Date; to: Date }): unknown[] => [
  idAt(from),
  idAt(to),
  ...windowValues(window),
]

/** The least id that is given at a moment. */
function idAt(moment: Date): string {
  const hex = moment.getTime().toString(16).padStart(12, '0')
  return `${hex.slice(0, 8)}-${hex.slice(8)}-0000-0000-000000000000`
}

/** All that a digest of entries has to ask for, in the order in which it does. */
export async function tenantsOf(db: Queryable): Promise<string[]> {
  const rows = await db.query<{ id: string }>(
    // One after another by the index: there are few tenants and many accounts.
    `with recursive of_accounts as (
       (select tenant_id from billing.account order by tenant_id limit 1)
       union all
       select (select tenant_id from billing.account a where a.tenant_id > o.tenant_id order by tenant_id limit 1)
       from of_accounts o where o.tenant_id is not null
     )
     select tenant_id as id from of_accounts where tenant_id is not null union select id from tabib.tenant order by id`,
  )
  return rows.map(({ id }) => id)
}

/** Sealed stretches whose entries are not as they were. */
export async function changedStretches(
  db: Queryable,
  stretches: Stretch[],
  signal?: AbortSignal,
): Promise<Stretch[]> {
  if (stretches.length === 0) return []
  const tenantIds = await tenantsOf(db)
  const changed: Stretch[] = []
  for (const stretch of stretches) {
    signal?.throwIfAborted()
    const [now] = await db.query<{ count: string; digest: string }>(
      stretchDigest(),
      stretchValues(stretch, tenantIds),
      'ledger_stretch',
    )
    if (Number(now!.count) !== stretch.count || now!.digest !== stretch.digest) changed.push(stretch)
  }
  return changed
}

/** The digest of all faults that are noted as mended by transactions which a `pg_snapshot` sees, or which are not there. */
export async function mendedDigest(db: Queryable, snapshot: string): Promise<string> {
  const [row] = await db.query<{ digest: string }>(
    `select encode(sha256(convert_to(coalesce(string_agg(m::text, E'\\n' order by m::text collate "C"), ''), 'UTF8')), 'hex') as digest
     from (select m.tenant_id, m.account_id, m.transaction_id, m.check_name, m.seq, m.of_transaction, m.expected, m.seen
           from billing.mended_fault m
             left join billing.journal_transaction t on t.tenant_id = m.tenant_id and t.id = m.transaction_id
           where t.id is null or pg_visible_in_snapshot(t.xid, $1::pg_snapshot)) m`,
    [snapshot],
  )
  return row!.digest
}

/** Of a transaction in the order in which they are sealed. */
export type Place = { xid: string; id: string }
/** Between two `pg_snapshot`s. */
export type Window = { since: string; until: string }

/** Rows that `until` sees and `since` does not, the values at `$n` to `$n+3`. */
export const inWindow = (n: number, xid = 'xid') =>
  `(${xid} >= $${n}::xid8 or ${xid} = any($${n + 1}::xid8[])) and ${xid} < $${n + 2}::xid8 and ${xid} <> all($${n + 3}::xid8[])`

/** @see inWindow */
export function windowValues({ since, until }: Window): unknown[] {
  const [before, now] = [parseSnapshot(since), parseSnapshot(until)]
  return [before.xmax, before.xip, now.xmax, now.xip]
}

// What a statement should take; the longest that are met are some times that.
const STATEMENT_MS = 50
const ROWS_AT_FIRST = 10_000
const MOST_ROWS = 150_000
const LEAST_ROWS = 1_000

/** How many rows a statement reads: as many as take it some 50 ms on this machine, by how long those before took. */
export class Pace {
  #rows: number
  readonly #mostRows: number

  constructor({ rowsAtFirst = ROWS_AT_FIRST, mostRows = MOST_ROWS } = {}) {
    this.#rows = rowsAtFirst
    this.#mostRows = mostRows
  }

  get rows(): number {
    return this.#rows
  }

  async time<T>(rows: number, statement: () => Promise<T>): Promise<T> {
    const startedAt = performance.now()
    const result = await statement()
    const ms = Math.max(performance.now() - startedAt, 1)
    // What is short says more about the way to the server.
    if (rows > LEAST_ROWS / 2) {
      const fitting = Math.min(rows * (STATEMENT_MS / ms), 2 * this.#rows)
      this.#rows = Math.round(Math.min(Math.max(fitting, LEAST_ROWS), this.#mostRows))
    }
    return result
  }

  /** In their order, as many at once as a statement reads; one at least. */
  *slices<T>(all: readonly T[], rowsOf: (one: T) => number): Generator<{ items: T[]; rows: number }> {
    let slice: { items: T[]; rows: number } = { items: [], rows: 0 }
    for (const one of all) {
      slice.items.push(one)
      slice.rows += rowsOf(one)
      if (slice.rows < this.#rows) continue
      yield slice
      slice = { items: [], rows: 0 }
    }
    if (slice.items.length > 0) yield slice
  }
}

/** Whether a window has all transactions from one place to another: nothing before or beside it is between them. */
function isWholeWindow({ since, until, from, to }: Window & { from: Place; to: Place }): boolean {
  const [before, now] = [parseSnapshot(since), parseSnapshot(until)]
  const [first, last] = [BigInt(from.xid), BigInt(to.xid)]
  const between = (xid: string) => BigInt(xid) >= first && BigInt(xid) <= last
  return first >= BigInt(before.xmax) && last < BigInt(now.xmax) && !now.xip.some(between)
}

/** Entries of one account from `low` to `high`. */
export interface Span<A extends SpanAccount = SpanAccount> {
  account: A
  low: bigint
  high: bigint
  /** Behind `high` up to here there should be nothing. */
  until?: bigint
}

export const rowsOf = ({ low, high }: Pick<Span, 'low' | 'high'>) => Number(high - low) + 1

export interface SpanAccount {
  tenantId: string
  accountId: string
  currency: string
}

/** The blocks of a seal as spans, each with the digest that it had. */
export function sealedSpans<A extends SpanAccount & Pick<SealedAccount, 'blocks'>>(
  account: A,
): (Span<A> & { digest: string })[] {
  return account.blocks.map(({ to, digest }, i) => ({
    account,
    low: (account.blocks[i - 1]?.to ?? 0n) + 1n,
    high: to,
    digest,
  }))
}

/** One digest for so many entries of an account. */
const ENTRIES_A_BLOCK = 1_000n
/** Behind every sequence number. */
export const NO_END = 2n ** 63n - 1n

/** One span at least, which has nothing in it where `from` is behind `to`. */
export function spansBetween<A extends SpanAccount>(account: A, from: bigint, to: bigint): Span<A>[] {
  const spans: Span<A>[] = []
  for (let low = from; low === from || low <= to; low += ENTRIES_A_BLOCK) {
    const high = low + ENTRIES_A_BLOCK - 1n
    spans.push({ account, low, high: high < to ? high : to })
  }
  return spans
}

/**
 * The spans that an account's entries want digests of once all its blocks have been found as they were: what is behind the
 * last full block, unless one block has it all. That one is kept; of others there are none left but the full ones.
 */
export function tailSpans<A extends SpanAccount & Pick<SealedAccount, 'blocks' | 'seq'>>(
  account: A,
): Span<A>[] {
  const { blocks, seq } = account
  const full = blocks.findIndex(({ to }, i) => to !== ENTRIES_A_BLOCK * BigInt(i + 1))
  const kept = full === -1 ? blocks.length : full
  if (blocks.length > 0 && blocks.length - kept < 2 && blocks.at(-1)!.to === seq) return []
  account.blocks = blocks.slice(0, kept)
  const spans = spansBetween(account, ENTRIES_A_BLOCK * BigInt(kept) + 1n, seq)
  // To the end, behind which there should be nothing.
  spans.at(-1)!.until = NO_END
  return spans
}

/** An array as Postgres reads it; of values that hold no quotes or commas. */
export const arrayOf = <T>(values: readonly T[], of: (value: T) => string | bigint): string =>
  `{${values.map(of).join(',')}}`

/** Parameters `$1` to `$6` of a statement that reads spans. */
export const spanValues = (spans: readonly Span[]): string[] => [
  arrayOf(spans, ({ account }) => account.tenantId),
  arrayOf(spans, ({ account }) => account.accountId),
  arrayOf(spans, ({ low }) => low),
  arrayOf(spans, ({ high }) => high),
  arrayOf(spans, ({ account }) => account.currency),
  arrayOf(spans, ({ high, until = high }) => until),
]
/** @see spanValues; further arrays and the closing parenthesis follow. */
export const SPANS = 'unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[], $5::text[], $6::bigint[]'
/** With what is before the first or behind the last, where there should be nothing. */
export const WITHIN = `e.tenant_id = s.tenant_id and e.account_id = s.account_id
  and e.seq between case s.low when 1 then -9223372036854775807 else s.low end and s.until`

// Of a span that holds another currency, or more than it should, there is no digest; of one without entries it is empty.
const SPAN_DIGEST = `(
  select case when count(*) = 0 then '' when bool_and(e.currency = s.currency) and min(e.seq) >= s.low and max(e.seq) <= s.high
    then encode(sha256(string_agg(${ENTRY_BYTES}, null)), 'hex') end
  from (select seq, amount_minor, balance_minor, transaction_id, currency, posted_at
        from billing.entry e where ${WITHIN} order by seq) e)`

/** A digest of each span, in hex; empty where it has no entries, `-` where there can be none. */
export async function readDigests<S extends Span>(
  db: Queryable,
  spans: S[],
): Promise<{ span: S; digest: string }[]> {
  if (spans.length === 0) return []
  const rows = await db.query<{ digest: string }>(
    `select coalesce(${SPAN_DIGEST}, '-') as digest
     from ${SPANS}) with ordinality as s(tenant_id, account_id, low, high, currency, until, nth) order by nth`,
    spanValues(spans),
    'ledger_digests',
  )
  return rows.map(({ digest }, i) => ({ span: spans[i]!, digest }))
}

/** Spans whose digest is another than theirs. */
export async function changedSpans<S extends Span & { digest: string }>(
  db: Queryable,
  spans: S[],
): Promise<S[]> {
  if (spans.length === 0) return []
  const rows = await db.query<{ nth: number }>(
    `select nth::int as nth from ${SPANS}, $7::text[])
       with ordinality as s(tenant_id, account_id, low, high, currency, until, digest, nth)
     where digest is distinct from ${SPAN_DIGEST}`,
    [...spanValues(spans), arrayOf(spans, ({ digest }) => digest)],
    'ledger_changed_spans',
  )
  return rows.map(({ nth }) => spans[nth - 1]!)
}
