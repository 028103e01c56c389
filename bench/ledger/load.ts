import { type Database, openDatabase } from '../../src/adapters/postgres/client.ts'

const TENANTS = 10
const LOADERS = 2
// Of an index that grew by posts to accounts all over it, ln 2 of its pages is full; one made at once would flatter what reads it.
const PAGES_FULL = 69
const TABLES = ['entry', 'journal_transaction', 'balance', 'account'] as const

export interface LedgerSize {
  accounts: number
  /** Of each account; each account is posted to once a round, in another order. */
  rounds: number
}

export interface Loader extends AsyncDisposable {
  /** One of the tenants, which has a tenth of all. */
  readonly tenant: string
  /** Fills an empty ledger, and vacuums and indexes it as it is some time after posting. */
  fill(): Promise<void>
  /**
   * Posts further rounds, and vacuums, as autovacuum does within a minute by the tables' own settings (migration 0014). With
   * `among` to so many accounts alone, after which the others are behind and no further round can be posted.
   */
  post(rounds: number, options?: { among?: number }): Promise<void>
}

/**
 * Makes a ledger by SQL as the server's administrator, several statements at a time: keys, triggers and an index that is kept
 * while rows come would take ten times as long. Transactions have two entries, over all accounts in an order that looks
 * random; entries lie in the order of posting.
 */
export async function openLoader({ url, accounts, rounds }: LedgerSize & { url: string }): Promise<Loader> {
  if (accounts % (2 * TENANTS) !== 0)
    throw new Error(`${accounts} accounts: not a multiple of ${2 * TENANTS}`)
  const half = accounts / 2
  const dbs = Array.from({ length: LOADERS }, () => openDatabase({ url, maxConnections: 1 }))
  const sql = async (db: Database, ...statements: string[]) => {
    await using connection = await db.connection()
    await connection.query(
      `set session_replication_role = replica; set synchronous_commit = off; set maintenance_work_mem = '512MB';
       set enable_mergejoin = off; set enable_nestloop = off; set work_mem = '256MB'; set jit = off`,
    )
    for (const statement of statements) await connection.query(statement)
  }
  const [first] = dbs as [Database]
  const tenant = (n: string) => `md5('t' || ${n} % ${TENANTS})::uuid`
  await sql(
    first,
    'create schema bench',
    // Accounts i and half + i are of one tenant.
    `create table bench.account as select n::int, ${tenant('n')} as tenant_id, md5('a' || n)::uuid as id from generate_series(0, ${accounts - 1}) n`,
    'create unique index on bench.account (n)',
    'analyze bench.account',
  )
  /** Transactions of the rounds, as many as half of the accounts each; what they amount to grows from round to round. */
  const postRounds = (from: number, to: number, among = half) => {
    const posts: string[] = []
    for (let round = from; round < to; round++) {
      const shift = (round * 3_370) % among
      const multiplier = coprime(7_919, among)
      posts.push(
        `with posted as materialized (
           select nth, debtor.tenant_id, debtor.id as debtor, creditor.id as creditor, (debtor.n % ${TENANTS} + 1) * ${round + 1} as amount,
             (debtor.n % ${TENANTS} + 1) * ${((round + 1) * (round + 2)) / 2} as balance, clock_timestamp() as at,
             (lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0') || '7' || substr(md5(${round} || ' ' || nth), 1, 19))::uuid as id
           from generate_series(0, ${among - 1}) nth
             join bench.account debtor on debtor.n = (nth::bigint * ${multiplier} + ${round}) % ${among}
             join bench.account creditor on creditor.n = ${half} + (debtor.n + ${shift}) % ${among}
           order by nth
         ), transactions as (
           insert into billing.journal_transaction (tenant_id, id, kind, business_key, posted_at)
           select tenant_id, id, 'charge', 'charge:' || id, at from posted
         )
         insert into billing.entry (tenant_id, account_id, seq, transaction_id, amount_minor, currency, balance_minor, posted_at)
         select tenant_id, e.account_id, ${round + 1}, id, e.amount, 'AFN', e.balance, at
         from posted, lateral (values (debtor, amount, balance), (creditor, -amount, -balance)) as e(account_id, amount, balance)`,
      )
    }
    return posts
  }
  /** Each statement to whoever is free. */
  const share = async (statements: string[]) => {
    const left = [...statements]
    await Promise.all(
      dbs.map(async (db) => {
        for (let next = left.shift(); next !== undefined; next = left.shift()) await sql(db, next)
      }),
    )
  }
  const settleBalances = (at: number, among = half) =>
    `update billing.balance b set seq = ${at}, balance_minor = case when a.n < ${half} then 1 else -1 end
       * (a.n % ${TENANTS} + 1) * ${(at * (at + 1)) / 2}
     from bench.account a where b.tenant_id = a.tenant_id and b.account_id = a.id and a.n % ${half} < ${among}`
  const [row] = await first.query<{ id: string }>(`select ${tenant('0')} as id`)
  let posted = rounds
  return {
    tenant: row!.id,
    async fill() {
      const indexes = await first.query<{ drop: string; create: string }>(
        `select case when c.oid is null then format('drop index %s', i.indexrelid::regclass)
             else format('alter table %s drop constraint %I', i.indrelid::regclass, c.conname) end as drop,
           case when c.oid is null then pg_get_indexdef(i.indexrelid) || ' with (fillfactor = ${PAGES_FULL})'
             else format('alter table %s add constraint %I %s with (fillfactor = ${PAGES_FULL})', i.indrelid::regclass, c.conname,
               pg_get_constraintdef(c.oid)) end as create
         from pg_index i left join pg_constraint c on c.conindid = i.indexrelid and c.contype in ('p', 'u')
         where i.indrelid = any(array['billing.entry', 'billing.journal_transaction']::regclass[])
         order by i.indrelid`,
      )
      const references = await first.query<{ drop: string; create: string }>(
        `select format('alter table %s drop constraint %I', conrelid::regclass, conname) as drop,
           format('alter table %s add constraint %I %s not valid; update pg_constraint set convalidated = true where conname = %L',
             conrelid::regclass, conname, pg_get_constraintdef(oid), conname) as create
         from pg_constraint where contype = 'f' and confrelid = 'billing.journal_transaction'::regclass`,
      )
      await sql(
        first,
        `insert into tabib.tenant (id, slug, name, region, currency, status)
         select ${tenant('n')}, 'tenant-' || n, 'Tenant', 'af-herat', 'AFN', 'live' from generate_series(0, ${TENANTS - 1}) n`,
        `insert into billing.account (tenant_id, id, code, currency) select tenant_id, id, 'receivable:' || id, 'AFN' from bench.account`,
        'insert into billing.balance (tenant_id, account_id) select tenant_id, id from bench.account',
        settleBalances(rounds),
        ...references.map(({ drop }) => drop),
        ...indexes.map(({ drop }) => drop),
      )
      await share(postRounds(0, rounds))
      await share(['vacuum (analyze) billing.entry', 'vacuum (analyze) billing.journal_transaction'])
      for (const table of ['billing.entry', 'billing.journal_transaction']) {
        await sql(
          first,
          ...indexes.filter(({ create }) => create.includes(` ${table} `)).map(({ create }) => create),
        )
      }
      // They hold by what was made; to look again would take as long as to make it.
      await sql(first, ...references.map(({ create }) => create))
      await share(['vacuum (analyze) billing.balance', 'vacuum (analyze) billing.account'])
    },
    async post(more, { among = accounts } = {}) {
      await share(postRounds(posted, posted + more, among / 2))
      posted += more
      await sql(
        first,
        settleBalances(posted, among / 2),
        // What is not flushed yet is not known to be seen by all, and vacuum passes it by.
        'set synchronous_commit = on',
        `create table bench.flushed_${posted} ()`,
        ...TABLES.map((table) => `vacuum (analyze) billing.${table}`),
      )
    },
    async [Symbol.asyncDispose]() {
      await Promise.all(dbs.map((db) => db.close()))
    },
  }
}

/** The first number from `least` on that has no divisor in common with `n`. */
function coprime(least: number, n: number): number {
  const divisor = (a: number, b: number): number => (b === 0 ? a : divisor(b, a % b))
  let found = least
  while (divisor(found, n) !== 1) found += 1
  return found
}
