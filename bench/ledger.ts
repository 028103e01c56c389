import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Database, openDatabase } from '../src/adapters/postgres/client.ts'
import { loadConfig } from '../src/config.ts'
import { rotateKeys } from '../src/domain/keys/rotate.ts'
import { type Drift, driftedAccounts } from '../src/domain/ledger/balances.ts'
import { SEAL_KEY_POLICY, SEAL_PURPOSE } from '../src/domain/ledger/seal.ts'
import { type Verification, verifyLedger } from '../src/domain/ledger/verify.ts'
import { assertSandboxAllowed, createWorld, type World } from '../src/sandbox/world.ts'
import { type Loader, openLoader } from './ledger/load.ts'
import { type Measurement, median, reaches } from './measurement.ts'

const ENTRIES = Number(process.env.TABIB_BENCH_ENTRIES ?? 10_000_000)
const ROUNDS = 50
const NEW_ROUNDS = 5
const ACCOUNTS = ENTRIES / ROUNDS
const NEW_ENTRIES = ACCOUNTS * NEW_ROUNDS

/**
 * What it costs to verify a ledger of 10 million entries over 200 thousand accounts, in CPU time of Postgres and of this
 * process together, against the least that Postgres can do: one index-only group aggregate over all entries.
 */
export async function run(): Promise<Measurement[]> {
  assertSandboxAllowed(loadConfig({ env: process.env, cwd: process.cwd() }))
  // Vacuumed when it is said, so that figures do not depend on when autovacuum passes by.
  await using world = await createWorld({
    postgresSettings: { autovacuum: 'off', max_wal_size: '16GB', wal_level: 'minimal', max_wal_senders: '0' },
  })
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
  const database = new URL(world.env.TABIB_OWNER_DATABASE_URL!).pathname.slice(1)
  const url = world.postgres.adminUrl.replace(/[^/]+$/, database)
  await using load: Loader = await openLoader({ url, accounts: ACCOUNTS, rounds: ROUNDS })
  const startedAt = performance.now()
  await load.fill()
  const loadedS = (performance.now() - startedAt) / 1_000

  await using db = openDatabase({
    url: world.env.TABIB_DATABASE_URL!,
    applicationName: NAME,
    maxConnections: 2,
  })
  const verify = (scope: object) =>
    cost(db, (timed) => verifyLedger({ db: timed, keyStore: world.app.keyStore }, scope, { folder }))

  // Each of these is quick, and a neighbour on the machine shows in one of them.
  const limits: Cost<void>[] = []
  const measureLimit = async () => limits.push(await cost(db, async (timed) => rawLimit(timed)))
  const passes: Cost<Drift[]>[] = []
  for (let again = 0; again < 3; again += 1) {
    await measureLimit()
    passes.push(await cost(db, (timed) => driftedAccounts({ db: timed })))
  }
  const first = await verify({})
  const full = await verify({ full: true })
  await measureLimit()
  const tenant = await verify({ full: true, tenantId: load.tenant })
  await load.post(NEW_ROUNDS)
  const next = await verify({ quick: true })
  const share = await verify({})
  // As many new entries again, in a tenth of the accounts.
  await load.post(10 * NEW_ROUNDS, { among: ACCOUNTS / 10 })
  const busy = await verify({ quick: true })
  for (const { result } of [first, full, next, share, busy]) assertClean(result)
  if (passes.some(({ result }) => result.length > 0)) throw new Error('balances drifted')

  const slowest = Math.max(
    ...[...passes, first, full, tenant, next, share, busy].map(({ slowestMs }) => slowestMs),
  )
  const per = (cpuS: number, rows: number) => (cpuS / rows) * 1e6
  const base = per(median(limits.map(({ cpuS }) => cpuS)), ENTRIES)
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
  const compared = (name: string, cpuS: number, target?: string): Measurement =>
    figure(name, per(cpuS, ENTRIES), 'CPU-s / 1 M entries', {
      against,
      ratio: rounded(ratio(cpuS)),
      ...(target && { target, ok: reaches(ratio(cpuS), target) }),
    })
  const bounded = (name: string, value: number, unit: string, target: string): Measurement =>
    figure(name, value, unit, { target, ok: reaches(value, target) })
  return [
    figure('raw limit', base, 'CPU-s / 1 M entries'),
    compared('balance pass', median(passes.map(({ cpuS }) => cpuS)), '>= 0.7'),
    compared('first verification, every entry by itself', first.cpuS),
    compared('whole verification with digests', full.cpuS, '>= 0.2'),
    bounded(
      'incremental verification, new entries in every account',
      per(next.cpuS, NEW_ENTRIES),
      'CPU-s / 1 M new entries',
      '<= 2.5',
    ),
    bounded(
      'incremental verification, in a tenth of the accounts',
      per(busy.cpuS, NEW_ENTRIES),
      'CPU-s / 1 M new entries',
      '<= 2.5',
    ),
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
    figure('to make the ledger', loadedS, 's'),
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
