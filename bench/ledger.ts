import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Database, openDatabase } from '../src/adapters/postgres/client.ts'
import { loadConfig } from '../src/config.ts'
import { rotateKeys } from '../src/domain/keys/rotate.ts'
import { driftedAccounts } from '../src/domain/ledger/balances.ts'
import { SEAL_KEY_POLICY, SEAL_PURPOSE } from '../src/domain/ledger/seal.ts'
import { type Verification, verifyLedger } from '../src/domain/ledger/verify.ts'
import { assertSandboxAllowed, createWorld, type World } from '../src/sandbox/world.ts'
import { type Measurement, reaches } from './measurement.ts'

const ENTRIES = Number(process.env.TABIB_BENCH_ENTRIES ?? 10_000_000)
const ACCOUNTS = ENTRIES / 50
const TENANTS = 10
const NEW_ENTRIES = ENTRIES / 10

/**
 * What it costs to verify a ledger of 10 million entries over 200 thousand accounts, in CPU time of Postgres and of this
 * process together, against the least that Postgres can do: one index-only group aggregate over all entries.
 */
export async function run(): Promise<Measurement[]> {
  assertSandboxAllowed(loadConfig({ env: process.env, cwd: process.cwd() }))
  await using world = await createWorld()
  const folder = await mkdtemp(join(tmpdir(), 'tabib-seals-'))
  try {
    return await measure(world, folder)
  } finally {
    await rm(folder, { recursive: true })
  }
}

async function measure(world: World, folder: string): Promise<Measurement[]> {
  await rotateKeys(world.app, {
    purpose: SEAL_PURPOSE,
    algorithm: 'ES256',
    policy: SEAL_KEY_POLICY,
    by: 'bench',
  })
  const load = await openLoader(world)
  await load.accounts()
  await load.entries(1, ENTRIES)
  await load.settle()

  await using db = openDatabase({
    url: world.env.TABIB_DATABASE_URL!,
    applicationName: NAME,
    maxConnections: 2,
  })
  const verify = (scope: object) =>
    cost(db, (timed) => verifyLedger({ db: timed, keyStore: world.app.keyStore }, scope, { folder }))

  const limit = await cost(db, async (timed) => rawLimit(timed))
  const balances = await cost(db, (timed) => driftedAccounts({ db: timed }))
  const first = await verify({})
  const full = await verify({ full: true })
  const tenant = await verify({ full: true, tenantId: load.tenant })
  await load.entries(ENTRIES + 1, ENTRIES + NEW_ENTRIES)
  // As autovacuum does within a minute, by the tables' own settings (migration 0014).
  await load.vacuum()
  const next = await verify({ quick: true })
  const share = await verify({})
  for (const { result } of [first, full, next, share]) assertClean(result)
  if (balances.result.length > 0) throw new Error('balances drifted')

  const slowest = Math.max(...[balances, full, next, share].map(({ slowestMs }) => slowestMs))
  const per = (cpuS: number, rows: number) => (cpuS / rows) * 1e6
  const base = per(limit.cpuS, ENTRIES)
  const against = 'raw limit'
  const ratio = (cpuS: number) => base / per(cpuS, ENTRIES)
  const figure = (
    name: string,
    value: number,
    unit: string,
    more: Partial<Measurement> = {},
  ): Measurement => ({
    bench: 'ledger',
    case: name,
    value: rounded(value),
    unit,
    against: null,
    ratio: null,
    target: null,
    ok: null,
    ...more,
  })
  const compared = (name: string, { cpuS }: { cpuS: number }, target?: string): Measurement =>
    figure(name, per(cpuS, ENTRIES), 'CPU-s / 1 M entries', {
      against,
      ratio: rounded(ratio(cpuS)),
      ...(target && { target, ok: reaches(ratio(cpuS), target) }),
    })
  const bounded = (name: string, value: number, unit: string, target: string): Measurement =>
    figure(name, value, unit, { target, ok: reaches(value, target) })
  return [
    figure('raw limit', base, 'CPU-s / 1 M entries'),
    compared('balance pass', balances, '>= 0.7'),
    compared('first verification, every entry by itself', first),
    compared('whole verification with digests', full, '>= 0.2'),
    bounded('incremental verification', per(next.cpuS, NEW_ENTRIES), 'CPU-s / 1 M new entries', '<= 2.5'),
    figure(
      'a share of what is sealed, each night',
      per(share.cpuS, share.result.facts.sealedEntries),
      'CPU-s / 1 M entries',
    ),
    bounded('slowest statement', slowest, 'ms', '<= 250'),
    figure('most memory, a tenth of the ledger', tenant.rssMb, 'MB'),
    figure('most memory, all of it', full.rssMb, 'MB', {
      against: 'a tenth of the ledger',
      ratio: rounded(full.rssMb / tenant.rssMb),
      target: '<= 1.2',
      ok: reaches(full.rssMb / tenant.rssMb, '<= 1.2'),
    }),
    figure('load average', loadavg()[0] ?? 0, ''),
  ]
}

const NAME = 'ledger bench'
const rounded = (value: number) => Number(value.toPrecision(3))

function assertClean({ findings }: Verification): void {
  if (findings.length > 0)
    throw new Error(
      `false alarms: ${findings
        .map(({ message }) => message)
        .slice(0, 3)
        .join('; ')}`,
    )
}

/** The least that an answer takes: every amount, in the order of an index that holds all of it. */
async function rawLimit(db: Database): Promise<void> {
  await using connection = await db.connection()
  await connection.query('begin')
  await connection.query(
    `select set_config(name, 'off', true) from unnest(array['enable_hashagg', 'enable_sort', 'enable_seqscan', 'enable_bitmapscan', 'jit']) name`,
  )
  await connection.query(`select set_config('max_parallel_workers_per_gather', '0', true)`)
  await connection.query(
    'select count(sum) from (select sum(amount_minor) from billing.entry group by tenant_id, account_id) sums',
  )
  await connection.query('rollback')
}

interface Cost<T> {
  result: T
  /** Of Postgres's processes that worked for it, and of this one. */
  cpuS: number
  slowestMs: number
  rssMb: number
}

async function cost<T>(db: Database, work: (timed: Database) => Promise<T>): Promise<Cost<T>> {
  let slowestMs = 0
  let rss = 0
  const time = (queryable: object): never =>
    new Proxy(queryable, {
      get(target, key) {
        const value = Reflect.get(target, key)
        if (key === 'connection') return async () => time(await value.call(target))
        if (key !== 'query') return typeof value === 'function' ? value.bind(target) : value
        return async (...args: unknown[]) => {
          const startedAt = performance.now()
          const rows = await value.apply(target, args)
          slowestMs = Math.max(slowestMs, performance.now() - startedAt)
          rss = Math.max(rss, process.memoryUsage.rss())
          return rows
        }
      },
    }) as never
  const before = [await postgresCpuS(db), process.cpuUsage()] as const
  const result = await work(time(db))
  const own = process.cpuUsage(before[1])
  const cpuS = (await postgresCpuS(db)) - before[0] + (own.user + own.system) / 1e6
  return { result, cpuS, slowestMs, rssMb: rss / 1e6 }
}

/** CPU time of all our backends so far. */
async function postgresCpuS(db: Database): Promise<number> {
  const pids = await db.query<{ pid: number }>(
    'select pid from pg_stat_activity where application_name = $1',
    [NAME],
  )
  const ticks = await Promise.all(
    pids.map(async ({ pid }) => {
      const fields = (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ')[1]!.split(' ')
      return Number(fields[11]) + Number(fields[12])
    }),
  )
  return ticks.reduce((sum, one) => sum + one, 0) / 100
}

/** Makes a ledger by SQL, as the server's administrator: triggers and keys would take ten times as long. */
async function openLoader(world: World) {
  const url = new URL(world.env.TABIB_OWNER_DATABASE_URL!)
  const admin = openDatabase({
    url: world.postgres.adminUrl.replace(/[^/]+$/, url.pathname.slice(1)),
    maxConnections: 1,
  })
  // Of its own for good: what is temporary lives as long as it.
  const connection = await admin.connection()
  const sql = (text: string) => connection.query(text)
  await sql(
    `set session_replication_role = replica; set work_mem = '1GB'; set synchronous_commit = off; set maintenance_work_mem = '1GB'`,
  )
  await sql(
    `create function pg_temp.tenant(n bigint) returns uuid language sql immutable as $$ select md5('t' || n % ${TENANTS})::uuid $$`,
  )
  await sql(
    `create function pg_temp.account(n bigint) returns uuid language sql immutable as $$ select md5('a' || n)::uuid $$`,
  )
  return {
    tenant: '',
    async accounts() {
      await sql(
        `insert into tabib.tenant (id, slug, name, region, currency, status)
         select pg_temp.tenant(n), 'tenant-' || n, 'Tenant', 'af-herat', 'AFN', 'live' from generate_series(0, ${TENANTS - 1}) n`,
      )
      await sql(
        `insert into billing.account (tenant_id, id, code, currency)
         select pg_temp.tenant(n), pg_temp.account(n), 'receivable:' || pg_temp.account(n), 'AFN' from generate_series(0, ${ACCOUNTS - 1}) n`,
      )
      await sql(
        'insert into billing.balance (tenant_id, account_id) select tenant_id, id from billing.account',
      )
      const [row] = (await sql('select pg_temp.tenant(0) as id')) as { id: string }[]
      this.tenant = row!.id
    },
    /** Transactions of two entries, in the order of posting, over all accounts; each chunk is a transaction of its own. */
    async entries(from: number, to: number) {
      const whole = from === 1
      if (whole) {
        await sql('alter table billing.entry drop constraint entry_pkey')
        await sql('drop index billing.entry_transaction')
      }
      await sql(
        `create temp table leg as
         select n, leg, pg_temp.tenant(a) as tenant_id, pg_temp.account(a) as account_id,
           case leg when 0 then n % 9973 + 1 else -(n % 9973 + 1) end as amount_minor
         from generate_series(${(from + 1) / 2}::bigint, ${to / 2}) n, generate_series(0, 1) leg,
           lateral (select case leg when 0 then (n * 7919 + n / ${ACCOUNTS}) % ${ACCOUNTS}
             else ((n * 7919 + n / ${ACCOUNTS}) % ${ACCOUNTS} + ${TENANTS} * (1 + n % 991)) % ${ACCOUNTS} end as a) a`,
      )
      await sql(
        `create temp table made as
         select n, leg, tenant_id, account_id, amount_minor,
           b.seq + row_number() over w as seq, b.balance_minor + sum(amount_minor) over w as balance_minor
         from leg join billing.balance b using (tenant_id, account_id) window w as (partition by tenant_id, account_id order by n, leg)`,
      )
      await sql(
        'create temp table tx as select n, (array_agg(tenant_id))[1] as tenant_id, tabib.uuid_v7() as id from leg where leg = 0 group by n order by n',
      )
      await sql('create index on made (n, leg); create unique index on tx (n); analyze made; analyze tx')
      const chunk = Math.max(1, Math.ceil((to - from + 1) / 2 / 100))
      for (let low = (from + 1) / 2; low <= to / 2; low += chunk) {
        await sql(
          `with t as (
             insert into billing.journal_transaction (tenant_id, id, kind, business_key)
             select tenant_id, id, 'charge', 'evt-' || n from tx where n >= ${low} and n < ${low + chunk} order by n)
           insert into billing.entry (tenant_id, account_id, seq, transaction_id, amount_minor, currency, balance_minor)
           select m.tenant_id, m.account_id, m.seq, tx.id, m.amount_minor, 'AFN', m.balance_minor
           from made m join tx using (n) where n >= ${low} and n < ${low + chunk} order by n, leg`,
        )
      }
      await sql(
        `update billing.balance b set (seq, balance_minor) = (m.seq, m.balance_minor)
         from (select distinct on (tenant_id, account_id) * from made order by tenant_id, account_id, made.seq desc) m
         where m.tenant_id = b.tenant_id and m.account_id = b.account_id`,
      )
      await sql('drop table leg, made, tx')
    },
    /** As it is some time after posting: indexed, and vacuumed so that index-only scans are. */
    async settle() {
      await sql(
        `alter table billing.entry add primary key (tenant_id, account_id, seq)
           include (amount_minor, balance_minor, transaction_id, currency, posted_at)`,
      )
      await sql('create index entry_transaction on billing.entry (tenant_id, transaction_id) include (xid)')
      await this.vacuum()
    },
    async vacuum() {
      for (const table of ['entry', 'journal_transaction', 'balance', 'account'])
        await sql(`vacuum (analyze) billing.${table}`)
    },
  }
}
