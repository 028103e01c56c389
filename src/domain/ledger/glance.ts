import { generatePrimeSync, randomInt } from 'node:crypto'
import type { Connection } from '../../adapters/postgres/client.ts'
import { sendForText } from '../outbox/window.ts'
import {
  arrayOf,
  ENTRY_BYTES,
  inWindow,
  type Pace,
  type Place,
  type Span,
  transactionsDigest,
  type Window,
  windowValues,
} from './digest.ts'
import type { Seal } from './seal.ts'

/**
 * What a first look needs. It adds up what has to agree, each time with other random weights, instead of holding every
 * transaction against its entries:
 *
 * - that new entries are those of new transactions, by sums of hashes of their transactions;
 * - that each transaction sums to zero, by amounts times a hash of it, modulo a prime (Freivalds' check);
 * - that each balance follows from the one before and no sequence number is missing or twice, by hashes of balance and
 *   sequence after each entry less those before it, of which all but the first and the last have to cancel.
 *
 * Whoever tampers does not know the weights, so what is not right agrees by a chance of one to tens of millions. In the
 * slightest doubt all is looked at closely.
 */
export interface Glance {
  seed: bigint
  prime: bigint
  /** Nothing new is older, but for what was long under way: then a close look decides. */
  since: Date
}

export const newGlance = ({ iat }: Seal): Glance => ({
  seed: BigInt(randomInt(2 ** 47)),
  prime: generatePrimeSync(31, { bigint: true }),
  since: new Date((iat - 3_600) * 1_000),
})

/** What new entries add up to, seen from accounts or from transactions. */
export interface Tally {
  entries: number
  /** Sum of the hashes of their transactions. */
  marks: bigint
}

/** 30 bits of a transaction, other ones for each seed and tenant: sums of `int` are of `bigint`, not of slow numerics. */
const mark = (id: string, salt: string) => `(uuid_hash_extended(${id}, ${salt}) & 1073741823)::int`
const saltOf = (tenant: string, seed: string) => `uuid_hash_extended(${tenant}, ${seed}::bigint)`

/** A page of new transactions, by an index alone. */
export interface TransactionsGlance {
  count: number
  digest: string
  /** Of each once, with its xid. */
  marks: string
  /** When the first and the last were posted. */
  first: Date
  last: Date
  /** Dated before the last seal, or in the future. */
  misdated: boolean
}

/** What the transactions from one place to another add up to; what each sums to shows in the accounts. */
export async function glanceAtTransactions(
  connection: Connection,
  { from, to }: { from: Place; to: Place },
  window: Window,
  { seed, since }: Glance,
): Promise<TransactionsGlance> {
  const [page] = await connection.query<TransactionsGlance>(
    `select ${transactionsDigest(
      inWindow(5),
      `sum(${marked('t.id', 't.xid', saltOf('t.tenant_id', '$9'))})::text as marks`,
      'min(t.posted_at) as first, max(t.posted_at) as last',
      `min(t.posted_at) < $10::timestamptz or max(t.posted_at) > now() + interval '5 minutes' as misdated`,
    )}`,
    [from.xid, from.id, to.xid, to.id, ...windowValues(window), seed, since],
    'ledger_glance_transactions',
  )
  return page!
}

/** A transaction and the xid that wrote it. */
const marked = (id: string, xid: string, salt: string) =>
  `(hashtextextended(${xid}::text, uuid_hash_extended(${id}, ${salt})) & 1073741823)::int`

/** What new entries add up to by their transactions, and these each once with the xid of their entries. */
export interface EntriesGlance extends Tally {
  transactions: bigint
}

/**
 * Adds up a window's entries whose transactions began between two moments, by an index alone. Transactions bear the time in
 * their ids (RFC 9562, version 7); those that do not are not found here, and so leave a doubt.
 */
export async function glanceAtEntries(
  connection: Connection,
  tenantIds: string[],
  { from, to }: { from: Date; to: Date },
  window: Window,
  { seed }: Glance,
): Promise<EntriesGlance> {
  const [[entries, marks, transactions]] = (await sendForText(
    connection,
    'ledger_glance_entries',
    `select coalesce(sum(own.n), 0), coalesce(sum(own.n * ${mark('own.transaction_id', 'tenant.salt')}), 0),
       coalesce(sum(case when own.first = own.last then ${marked('own.transaction_id', 'own.first', 'tenant.salt')} end), 0)
     from (select id, ${saltOf('id', '$8')} as salt from unnest($7::uuid[]) id offset 0) tenant, lateral (
       select e.transaction_id, count(*) as n, min(e.xid) as first, max(e.xid) as last from billing.entry e
       where e.tenant_id = tenant.id and e.transaction_id >= $1::uuid and e.transaction_id < $2::uuid and ${inWindow(3)}
       group by e.transaction_id) own`,
    [idAt(from), idAt(to), ...windowValues(window), tenantIds, seed],
  )) as [[string, string, string]]
  return { entries: Number(entries), marks: BigInt(marks), transactions: BigInt(transactions) }
}

/** The least id that is given at a moment. */
function idAt(moment: Date): string {
  const hex = moment.getTime().toString(16).padStart(12, '0')
  return `${hex.slice(0, 8)}-${hex.slice(8)}-0000-0000-000000000000`
}

/** New entries of one account that make one block, and what they should lead from and to. */
export interface Growth {
  tenantId: string
  accountId: string
  currency: string
  low: number
  high: number
  /** The balance before; null for what the entry before says. */
  opened: string | null
  /** The balance after, and nothing behind; null where there is more, for what its last entry says. */
  closing: string | null
  /** Of the entries; empty where something is wrong with them. */
  digest: string
}

/** What new entries add up to in one currency. */
export interface Weighed extends Tally {
  currency: string
  /** Amounts times weights of their transactions. */
  weight: bigint
}

const WEIGHTS = `coalesce(sum(${mark('e.transaction_id', 's.salt')}), 0) as marks,
  coalesce(sum(((e.amount_minor % $2::bigint) * ((uuid_hash_extended(e.transaction_id, s.salt) >> 30) & 2147483647) % $2::bigint)::int), 0) as weight`
const balanced = (balance: string, seq: string) =>
  `(hashint8extended((${balance}) % $2::bigint, $1::bigint + ${seq}) & 1073741823)::int`
const balanceAt = (seq: string) =>
  `(select b.balance_minor from billing.entry b where b.tenant_id = $4 and b.account_id = s.account_id and b.seq = ${seq})`

/**
 * Reads new entries by the index of the primary key alone, gives each its digest, or none where a sequence number is missing
 * or too many, balances do not follow from one another up to the account's own, or an entry is in another currency or time.
 */
export async function glanceAtGrowth(
  connection: Connection,
  grown: Growth[],
  { seed, prime, since }: Glance,
  pace: Pace,
): Promise<Weighed[]> {
  const seen: Weighed[] = []
  for (const some of runs(grown, (one) => one.tenantId + one.currency)) {
    const { tenantId, currency } = some[0]!
    for (const slice of pace.slices(some, ({ low, high }) => high - low + 1)) {
      const [[digests, marks, weight]] = (await pace.time(slice.rows, () =>
        sendForText(
          connection,
          'ledger_glance_growth',
          // In the order of the spans, which the plan that the pass has pinned keeps.
          `select string_agg(g.digest, ','), sum(g.marks), sum(g.weight)
           from (
             select s.*, ${saltOf('$4::uuid', '$1')} as salt
             from unnest($6::uuid[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[])
               as s(account_id, low, high, opened, closing) offset 0) s,
           lateral (
             select case when count(*) filter (where e.currency <> $5 or e.posted_at < $3::timestamptz
                   or e.posted_at > (select now() + interval '5 minutes')) = 0
                 and sum(${balanced('e.balance_minor', 'e.seq')} - ${balanced('e.balance_minor - e.amount_minor', 'e.seq - 1')})
                   = ${balanced(`coalesce(s.closing, ${balanceAt('s.high')})`, 's.high')}
                   - ${balanced(`coalesce(s.opened, ${balanceAt('s.low - 1')})`, 's.low - 1')}
               then encode(sha256(string_agg(${ENTRY_BYTES}, '')), 'hex') else '' end as digest,
               ${WEIGHTS}
             from (select seq, amount_minor, balance_minor, transaction_id, currency, posted_at from billing.entry e
                   where e.tenant_id = $4 and e.account_id = s.account_id
                     and e.seq between s.low and case when s.closing is null then s.high else 9223372036854775807 end
                   order by seq) e) g`,
          [
            ...[seed, prime, since, tenantId, currency],
            arrayOf(slice.items, (one) => one.accountId),
            arrayOf(slice.items, (one) => String(one.low)),
            arrayOf(slice.items, (one) => String(one.high)),
            arrayOf(slice.items, (one) => one.opened ?? 'null'),
            arrayOf(slice.items, (one) => one.closing ?? 'null'),
          ],
        ),
      )) as [[string, string, string]]
      const each = digests.split(',')
      slice.items.forEach((one, i) => {
        one.digest = each[i]!
      })
      seen.push({ currency, entries: slice.rows, marks: BigInt(marks), weight: BigInt(weight) })
    }
  }
  return seen
}

/** What those add up to that were read closely, because their sealed entries were looked at as well; undefined where one is too old. */
export async function glanceAtSpans(
  connection: Connection,
  found: { span: Span; count: bigint }[],
  { seed, prime, since }: Glance,
  pace: Pace,
): Promise<Weighed[] | undefined> {
  const seen: Weighed[] = []
  for (const some of runs(found, ({ span: { account } }) => account.tenantId + account.currency)) {
    const { tenantId, currency } = some[0]!.span.account
    for (const slice of pace.slices(some, ({ count }) => Number(count))) {
      const [[marks, weight, misdated]] = (await pace.time(slice.rows, () =>
        sendForText(
          connection,
          'ledger_glance_spans',
          `select coalesce(sum(e.marks), 0), coalesce(sum(e.weight), 0), coalesce(min(e.first) < $7::timestamptz, false)
           from (select s.*, ${saltOf('$3::uuid', '$1')} as salt
                 from unnest($4::uuid[], $5::bigint[], $6::bigint[]) as s(account_id, low, high) offset 0) s,
             lateral (select ${WEIGHTS}, min(e.posted_at) as first from billing.entry e
               where e.tenant_id = $3 and e.account_id = s.account_id and e.seq between s.low and s.high) e`,
          [
            ...[seed, prime, tenantId],
            arrayOf(slice.items, ({ span }) => span.account.accountId),
            arrayOf(slice.items, ({ span }) => span.low),
            arrayOf(slice.items, ({ span }) => span.high),
            since,
          ],
        ),
      )) as [[string, string, string]]
      if (misdated === 't') return undefined
      seen.push({ currency, entries: slice.rows, marks: BigInt(marks), weight: BigInt(weight) })
    }
  }
  return seen
}

/** Neighbours of one kind together. */
function* runs<T>(all: T[], of: (one: T) => string): Generator<T[]> {
  let run: T[] = []
  let kind = ''
  for (const one of all) {
    const its = of(one)
    if (run.length > 0 && its !== kind) {
      yield run
      run = []
    }
    kind = its
    run.push(one)
  }
  if (run.length > 0) yield run
}
