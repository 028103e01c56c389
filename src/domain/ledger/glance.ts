import { generatePrimeSync, randomInt } from 'node:crypto'
import type { Connection } from '../../adapters/postgres/client.ts'
import { sendForText } from '../outbox/window.ts'
import {
  ENTRY_BYTES,
  type Place,
  stretchDigest,
  stretchValues,
  TRANSACTIONS_DIGEST,
  transactionsBehind,
  type Window,
  windowValues,
} from './digest.ts'
import { ACCOUNT_CODE, type AccountPage, type Seal } from './seal.ts'
import { BEHIND_ALL } from './sighting.ts'

/**
 * What a first look needs. It adds up what has to agree, each time with other random weights, instead of holding every
 * transaction against its entries, and every entry against its account:
 *
 * - that new entries are those of new transactions, by sums of hashes of transactions;
 * - that each transaction sums to zero, by amounts times a hash of it, modulo a prime (Freivalds' check);
 * - that each balance follows from the one before and no sequence number is missing or twice, by hashes of balance and
 *   sequence after each entry less those before it, of which all have to cancel but the one that the account was sealed at
 *   and the one that it is at now.
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

/** Thrown where sums do not agree, or anything else wants a closer look. */
export class Doubt extends Error {}

export const newGlance = ({ iat }: Seal): Glance => ({
  seed: BigInt(randomInt(2 ** 47)),
  prime: generatePrimeSync(31, { bigint: true }),
  since: new Date((iat - 3_600) * 1_000),
})

// Of 30 bits: sums of `int` are of `bigint`, not of slow numerics.
const HASH = '1073741823'
/** Other weights for each tenant. */
const saltOf = (tenant: string, seed: string) => `uuid_hash_extended(${tenant}, ${seed}::bigint)`
/**
 * A transaction and the xid that wrote it. An xid has no cast to a number, and to a text it takes five times as long; its age is
 * one, and the same for as long as the snapshot is.
 */
const marked = (id: string, xid: string, salt: string) =>
  `(hashint4extended(age(${xid}::xid), uuid_hash_extended(${id}, ${salt})) & ${HASH})::int`
/** A row in a currency: of its transaction or its account. */
const inCurrency = (id: string, currency: string, salt: string) =>
  `uuid_hash_extended(${id}, ${salt} # hashtext(${currency}))`
/** What an account, by its hash, stands at after an entry, less what it stood at after another. */
const step = (
  account: string,
  [seq, balance]: [string, string],
  [before, balanceBefore]: [string, string],
) => `(
  (hashint8extended(${balance}, ${account} # (${seq})) & ${HASH})
  - (hashint8extended(${balanceBefore}, ${account} # (${before})) & ${HASH}))::int`

/** Some new transactions, by an index alone. */
export interface TransactionsGlance {
  count: number
  digest: string
  place: { from: Place; to: Place }
  /** Of each once, with its xid. */
  marks: bigint
  /** When the first and the last were posted. */
  first: Date
  last: Date
  /** Dated before the last seal, or in the future. */
  misdated: boolean
}

/** The next so many transactions of a window; what each sums to shows in its entries. Undefined where there are no more. */
export async function glanceAtTransactions(
  connection: Connection,
  after: Place,
  window: Window,
  { seed, since }: Glance,
  rows: number,
): Promise<TransactionsGlance | undefined> {
  const [page] = await connection.query<
    Pick<TransactionsGlance, 'count' | 'digest' | 'first' | 'last' | 'misdated'> & {
      marks: string
      xids: [string, string]
      ids: [string, string]
    }
  >(
    `select ${TRANSACTIONS_DIGEST}, sum(${marked('t.id', 't.xid', saltOf('t.tenant_id', '$7'))})::text as marks,
       min(t.posted_at) as first, max(t.posted_at) as last,
       min(t.posted_at) < $8::timestamptz or max(t.posted_at) > now() + interval '5 minutes' as misdated,
       array[(array_agg(t.xid))[1]::text, (array_agg(t.xid))[count(*)]::text] as xids,
       array[(array_agg(t.id))[1]::text, (array_agg(t.id))[count(*)]::text] as ids
     from ${transactionsBehind(rows)}`,
    [after.xid, after.id, ...windowValues(window), seed, since],
    'ledger_glance_transactions',
  )
  const { count, digest, marks, first, last, misdated, xids, ids } = page!
  if (count === 0) return undefined
  const place = { from: { xid: xids[0], id: ids[0] }, to: { xid: xids[1], id: ids[1] } }
  return { count, digest, place, marks: BigInt(marks), first, last, misdated }
}

/** What new entries add up to. */
export interface EntriesGlance {
  count: number
  digest: string
  /** Of their transactions, as `TransactionsGlance.marks`. */
  marks: bigint
  /** Amounts times weights of their transactions; a multiple of the prime where each sums to zero. */
  weight: bigint
  /** Accounts as they stand after each, less before it. */
  steps: bigint
}

/** Adds up a window's entries whose transactions began between two moments, and gives them their digest. */
export async function glanceAtEntries(
  connection: Connection,
  stretch: Window & { from: Date; to: Date },
  tenantIds: string[],
  { seed, prime, since }: Glance,
): Promise<EntriesGlance> {
  const stepped = step(
    'e.account',
    ['e.seq', 'e.balance_minor'],
    ['e.seq - 1', 'e.balance_minor - e.amount_minor'],
  )
  const weight = `((e.amount_minor % $9::bigint) * ((e.weight >> 30) & 2147483647) % $9::bigint)::int`
  const statement = stretchDigest({
    salt: saltOf('id', '$8'),
    entry: `${inCurrency('e.account_id', 'e.currency', 'tenant.salt')} as account,
      ${inCurrency('e.transaction_id', 'e.currency', 'tenant.salt')} as weight`,
    // Those of another time are missing then.
    where: `e.posted_at >= $10::timestamptz and e.posted_at <= now() + interval '5 minutes'`,
    transaction: `sum(${stepped}) as steps, sum(${weight}) as weight, min(e.xid) as first_xid, max(e.xid) as last_xid`,
    tenant: `sum(t.steps) as steps, sum(t.weight) as weight,
      sum(case when t.first_xid = t.last_xid then ${marked('t.transaction_id', 't.first_xid', 'tenant.salt')} end) as marks`,
    all: 'coalesce(sum(own.marks), 0), coalesce(sum(own.weight), 0), coalesce(sum(own.steps), 0)',
  })
  const [[count, digest, marks, of, steps]] = (await sendForText(
    connection,
    'ledger_glance_entries',
    statement,
    [...stretchValues(stretch, tenantIds), seed, prime, since],
  )) as [[string, string, string, string, string]]
  return {
    count: Number(count),
    digest,
    marks: BigInt(marks),
    weight: BigInt(of),
    steps: BigInt(steps),
  }
}

/** Where accounts are read: of one tenant behind one, up to another. */
export interface AccountRange {
  tenantId: string
  after: string
  upTo?: string | undefined
}

/** Accounts as they are now, column by column. */
export interface AccountsNow
  extends Pick<AccountPage, 'ids' | 'currencies' | 'openings' | 'codes' | 'seqs' | 'balances'> {
  count: number
}

/** What of `AccountsNow` changes with every post. */
export type FiguresNow = Pick<AccountsNow, 'count' | 'seqs' | 'balances'>

const SEQ = 'coalesce(b.seq, 0)'
const BALANCE = 'coalesce(b.balance_minor, 0)'
const FIGURES = `count(*), string_agg(${SEQ}::text, ','), string_agg(${BALANCE}::text, ',')`
const facts = (code: string) =>
  `string_agg(a.id::text, ','), string_agg(a.currency, ','), string_agg(a.opening_minor::text, ','), string_agg(${code}, ',')`
const within = (id: string, most: number) =>
  `where tenant_id = $1 and ${id} > $2::uuid and ${id} <= $3::uuid order by ${id} limit ${most}`
const balancesWithin = (most: number) =>
  `select account_id, seq, balance_minor from billing.balance ${within('account_id', most)}`
// Accounts and balances side by side take half of what it takes to look each balance up.
const accountsWithin = (most: number) => `
  (select id, currency, opening_minor, code from billing.account ${within('id', most)}) a
  left join (${balancesWithin(most)}) b on b.account_id = a.id`

/**
 * So many accounts at most. With `plain` codes are as they are, for comparison with some that nothing in is escaped: as a list
 * they are the same only if each is, since another comma would be one too many.
 */
export async function readAccounts(
  connection: Connection,
  { tenantId, after, upTo = BEHIND_ALL }: AccountRange,
  most: number,
  { plain = false } = {},
): Promise<AccountsNow> {
  const [row] = (await sendForText(
    connection,
    plain ? 'ledger_glance_plain_accounts' : 'ledger_glance_accounts',
    `select ${FIGURES}, ${facts(plain ? 'a.code' : ACCOUNT_CODE)} from ${accountsWithin(most)}`,
    [tenantId, after, upTo],
  )) as [string[]]
  const [count, ...columns] = row.map((text) => text ?? '') as [string, ...string[]]
  const [seqs, balances, ids, currencies, openings, codes] = columns as [
    string,
    string,
    string,
    string,
    string,
    string,
  ]
  return { count: Number(count), seqs, balances, ids, currencies, openings, codes }
}

const figuresWithin = (most: number) =>
  `select a.id as account_id, ${SEQ} as seq, ${BALANCE} as balance_minor from ${accountsWithin(most)}`

/** Balances of a page's accounts as they are now, and what they have grown by since it was sealed. */
export async function readFigures(
  connection: Connection,
  { tenantId, after, upTo = BEHIND_ALL }: AccountRange,
  most: number,
  { currencies, seqs, balances }: AccountPage,
  { seed }: Glance,
): Promise<FiguresNow & Grown> {
  const kept = currencies.split(',')
  const distinct = [...new Set(kept)]
  // Whoever was never posted to has no balance; to look for accounts as well takes a third longer.
  const every = !/(^|,)0(,|$)/.test(seqs)
  const [[count, seqsNow, balancesNow, ...grown]] = (await sendForText(
    connection,
    every ? 'ledger_glance_figures' : 'ledger_glance_some_figures',
    // Arrays whose elements are of one length are read at any place at once; a currency is one of a short list.
    `select count(*), string_agg(g.seq::text, ','), string_agg(g.balance::text, ','), ${GROWN} from (
       select ${inCurrency('b.account_id', '($6::text[])[($5::smallint[])[b.nth]]', saltOf('$1::uuid', '$4'))} as account,
         b.seq, b.balance_minor as balance, ($7::bigint[])[b.nth] as sealed_seq, ($8::bigint[])[b.nth] as sealed_balance
       from (
         select *, row_number() over (order by account_id) as nth
         from (${every ? balancesWithin(most) : figuresWithin(most)}) b) b offset 0) g`,
    [
      ...[tenantId, after, upTo, seed],
      `{${kept.map((currency) => distinct.indexOf(currency) + 1)}}`,
      ...[distinct, seqs, balances].map((list) => `{${list}}`),
    ],
  )) as [[string, string | null, string | null, ...SumsGrown]]
  return { count: Number(count), seqs: seqsNow ?? '', balances: balancesNow ?? '', ...readGrown(grown) }
}

/** What accounts have grown by since they were sealed. `shrunk` where an account has less than was sealed, or as much and another balance. */
export interface Grown {
  entries: number
  /** As `EntriesGlance.steps`. */
  steps: bigint
  shrunk: boolean
}

// Of accounts `g`, each with its hash, as sealed and as it is.
const GROWN = `coalesce(sum(g.seq - g.sealed_seq), 0),
  coalesce(sum(case when g.seq <> g.sealed_seq or g.balance <> g.sealed_balance
    then ${step('g.account', ['g.seq', 'g.balance'], ['g.sealed_seq', 'g.sealed_balance'])} end), 0),
  bool_or(g.seq < g.sealed_seq or (g.seq = g.sealed_seq and g.balance <> g.sealed_balance))`
type SumsGrown = [string, string, string | null]
const readGrown = ([entries, steps, shrunk]: SumsGrown): Grown => ({
  entries: Number(entries),
  steps: BigInt(steps),
  shrunk: shrunk === 't',
})

/** @see readFigures, which reads what they are now as well. */
export async function glanceAtGrowth(
  connection: Connection,
  { tenantId, ids, currencies, ...sealed }: AccountPage,
  now: Pick<AccountPage, 'seqs' | 'balances'>,
  { seed }: Glance,
): Promise<Grown> {
  const [sums] = (await sendForText(
    connection,
    'ledger_glance_growth',
    `select ${GROWN} from (
       select s.*, ${inCurrency('s.id', 's.currency', 's.salt')} as account
       from (
         -- One beside the other, without a table that holds them all first.
         select ${saltOf('$1::uuid', '$2')} as salt, unnest($3::uuid[]) as id, unnest($4::text[]) as currency,
           unnest($5::bigint[]) as sealed_seq, unnest($6::bigint[]) as sealed_balance,
           unnest($7::bigint[]) as seq, unnest($8::bigint[]) as balance) s
       where s.seq <> s.sealed_seq or s.balance <> s.sealed_balance offset 0) g`,
    [
      tenantId,
      seed,
      ...[ids, currencies, sealed.seqs, sealed.balances, now.seqs, now.balances].map((list) => `{${list}}`),
    ],
  )) as [SumsGrown]
  return readGrown(sums)
}

/** Whole accounts of a tenant in their order, without another between them, in one currency and with a block each. */
export interface Resting {
  tenantId: string
  currency: string
  first: string
  last: string
  /** Of those that have entries. */
  seqs: string
  digests: string
}

const BYTES_AN_ENTRY = 40

/** Whether all entries of accounts at rest are as they were sealed. */
export async function areAsSealed(connection: Connection, resting: Resting): Promise<boolean> {
  const { tenantId, currency, first, last, seqs, digests } = resting
  const [[holds]] = (await sendForText(
    connection,
    'ledger_glance_resting',
    // As many as the last one's number, each of its own: none is missing. Compared there: the answer would be long.
    `select coalesce(string_agg(d.last::text, ','), '') = $5 and coalesce(string_agg(d.digest, ','), '') = $6 from (
       select max(e.seq) as last, case when count(*) filter (where e.currency <> $2 or e.seq < 1) = 0
             and length(string_agg(${ENTRY_BYTES}, null)) = ${BYTES_AN_ENTRY} * max(e.seq)
           then encode(sha256(string_agg(${ENTRY_BYTES}, null)), 'hex') else '' end as digest
       from (
         select account_id, seq, amount_minor, balance_minor, posted_at, transaction_id, currency from billing.entry
         where tenant_id = $1 and account_id between $3::uuid and $4::uuid order by account_id, seq) e
       group by account_id order by account_id) d`,
    [tenantId, currency, first, last, seqs, digests],
  )) as [[string]]
  return holds === 't'
}
