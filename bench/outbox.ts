import { execFile } from 'node:child_process'
import { mkdtemp, realpath, rm, writeFile } from 'node:fs/promises'
import { loadavg, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import { DatabaseSetup } from 'pg-transactional-outbox'
import { type Database, openDatabase } from '../src/adapters/postgres/client.ts'
import { loadConfig } from '../src/config.ts'
import { requirePrograms } from '../src/sandbox/servers/find.ts'
import { assertSandboxAllowed, createWorld, type TabibProcess, type World } from '../src/sandbox/world.ts'
import { eventStreamOf } from '../src/service.ts'
import { type Measurement, median, reaches } from './measurement.ts'
import { startChild, usageOf } from './outbox/child.ts'
import { type Latency, latencyAt } from './outbox/latency.ts'

const SERVICE = 'billing'
const STREAM = eventStreamOf(SERVICE)
const TENANT = '00000000-0000-7000-8000-000000000001'
const AGGREGATES = 20_000
const SERVERS = { durable: true, postgresSettings: { wal_level: 'logical' } }

interface Sizes {
  backlog: number
  large: number
  rounds: number
  /** How long one run of the peer may take. */
  peerS: number
  latencyS: number
  producerRounds: number
  producerS: number
}
const FULL: Sizes = {
  backlog: 200_000,
  large: 2_000_000,
  rounds: 3,
  peerS: 60,
  latencyS: 20,
  producerRounds: 15,
  producerS: 3,
}
const QUICK: Sizes = {
  backlog: 50_000,
  large: 400_000,
  rounds: 2,
  peerS: 10,
  latencyS: 5,
  producerRounds: 3,
  producerS: 2,
}

/**
 * The relay against the raw publish limit and pg-transactional-outbox, on servers of its own. Rates are taken from the
 * times at which the stream stored its first and last message. `--quick` takes smaller sizes; `--only=WORD` runs the
 * parts whose name has the word.
 */
export async function run(): Promise<Measurement[]> {
  assertSandboxAllowed(loadConfig({ env: process.env, cwd: process.cwd() }))
  const sizes = process.argv.includes('--quick') ? QUICK : FULL
  const only = process.argv.find((arg) => arg.startsWith('--only='))?.slice('--only='.length) ?? ''
  const parts = {
    drain: measureDrain,
    latency: measureLatency,
    large: measureLarge,
    producers: measureProducers,
  }
  const measurements: Measurement[] = []
  for (const [name, measure] of Object.entries(parts)) {
    if (!name.includes(only)) continue
    const before = loadavg()[0] ?? 0
    say(`${name}: load average ${before.toFixed(2)}`)
    await using world = await createWorld(SERVERS)
    measurements.push(...(await measure(world, sizes)))
    measurements.push(plain(`${name}: load average before`, before, ''))
    measurements.push(plain(`${name}: load average after`, loadavg()[0] ?? 0, ''))
  }
  return measurements
}

/** A backlog is drained: by the raw publish, by one relay, by two, and by the peer in four settings. */
async function measureDrain(world: World, { backlog, rounds, peerS }: Sizes): Promise<Measurement[]> {
  await seed(world, backlog)
  const rates: Record<'raw' | 'one' | 'two', Drained[]> = { raw: [], one: [], two: [] }
  for (let round = 0; round < rounds; round++) {
    rates.raw.push(await drainRaw(world, backlog))
    rates.one.push(await drainByRelay(world, backlog, 1))
    rates.two.push(await drainByRelay(world, backlog, 2))
  }
  const raw = middle(rates.raw, 'perS')
  const one = middle(rates.one, 'perS')
  const two = middle(rates.two, 'perS')
  const peers: Record<string, number> = {}
  await seedPeer(world, backlog)
  for (const setting of PEER_SETTINGS) {
    peers[setting.join(' ')] = await drainByPeer(world, setting, backlog, peerS)
  }
  const bestOrdered = Math.max(...ORDERED.map((name) => peers[name] ?? 0))
  const bestPolling = Math.max(...POLLING.map((name) => peers[name] ?? 0))
  const label = `drain of ${thousands(backlog)}`
  return [
    plain(`${label}: raw publish`, raw.perS, 'events/s'),
    plain(`${label}: raw publish, CPU`, raw.cpuS, 's'),
    against(`${label}: one relay`, one.perS, 'events/s', 'raw publish', one.perS / raw.perS, '>= 0.75'),
    plain(`${label}: one relay, CPU`, one.cpuS, 's'),
    plain(`${label}: one relay, most memory`, one.peakRssMb, 'MB'),
    against(`${label}: two relays`, two.perS, 'events/s', 'one relay', two.perS / one.perS, null),
    ...Object.entries(peers).map(([name, perS]) =>
      against(
        `${label}: pg-transactional-outbox ${name}`,
        perS,
        'events/s',
        'raw publish',
        perS / raw.perS,
        null,
      ),
    ),
    against(
      `${label}: one relay`,
      one.perS,
      'events/s',
      'peer, best ordered',
      one.perS / bestOrdered,
      '>= 30',
    ),
    against(
      `${label}: one relay`,
      one.perS,
      'events/s',
      'peer, best polling',
      one.perS / bestPolling,
      '>= 80',
    ),
  ]
}

/** From commit to published at two rates, idle cost, and with a snapshot held over what was published. */
async function measureLatency(world: World, { backlog, latencyS, peerS }: Sizes): Promise<Measurement[]> {
  await seed(world, 2 * backlog)
  await using holder = await world.owner.connection()
  await holder.query('begin isolation level repeatable read')
  await holder.query('select count(*) from billing.outbox')
  await using relay = await startRelay(world)
  await stored(world, 2 * backlog, 120_000)
  const held = await latencyAt(world, { ...intoOutbox(world), ratePerS: 200, seconds: latencyS })
  await holder.query('commit')
  const slow = await latencyAt(world, { ...intoOutbox(world), ratePerS: 200, seconds: latencyS })
  const fast = await latencyAt(world, { ...intoOutbox(world), ratePerS: 2_000, seconds: latencyS })
  const idle = await idleShare(relay, latencyS)
  await relay[Symbol.asyncDispose]()

  const peers: Measurement[] = []
  await seedPeer(world, 0)
  for (const setting of PEER_SETTINGS) {
    await using _peer = await startPeer(world, setting)
    // Its replication slot may still be held by the run before; until something comes through it is not up.
    const into = intoPeer(world)
    await delay(2_000)
    const at = { ...into, ratePerS: 200, seconds: Math.min(latencyS, peerS) }
    peers.push(
      ...latencies(`200/s: pg-transactional-outbox ${setting.join(' ')}`, await latencyAt(world, at)),
    )
  }
  return [
    ...latencies('200/s: one relay', slow, '<= 2', '<= 10'),
    ...latencies('2,000/s: one relay', fast),
    ...latencies(`200/s, snapshot held over ${thousands(2 * backlog)} published`, held, undefined, '<= 15'),
    judged('idle: three relays in one process', idle * 100, '% of a core', '<= 3'),
    ...peers,
  ]
}

/** A backlog of millions: whether the rate holds to its end, within how much memory, and what it leaves behind. */
async function measureLarge(world: World, sizes: Sizes): Promise<Measurement[]> {
  const { backlog, large, rounds, latencyS } = sizes
  await seed(world, large)
  const share = Math.floor(large * 0.15)
  const ends = async (): Promise<Ends> => {
    const [first, last] = [await rateBetween(world, 1, share), await rateBetween(world, large - share, large)]
    const twentieths: number[] = []
    for (let n = 0; n < 20; n++) {
      twentieths.push(await rateBetween(world, (n * large) / 20 + 1, ((n + 1) * large) / 20))
    }
    say(
      `    thousands a second, by twentieths: ${twentieths.map((perS) => Math.round(perS / 1_000)).join(' ')}`,
    )
    return { first, last, ratio: last / first }
  }
  // What of a slower end is the server's own, whose memory of message ids grows.
  const raw: Ends[] = []
  const drained: (Drained & Ends)[] = []
  for (let round = 0; round < rounds; round++) {
    await drainRaw(world, backlog, large / backlog)
    raw.push(await ends())
    drained.push({ ...(await drainByRelay(world, large, 1)), ...(await ends()) })
  }
  await using _relay = await startRelay(world)
  const slow = await latencyAt(world, { ...intoOutbox(world), ratePerS: 200, seconds: latencyS })
  const fast = await latencyAt(world, { ...intoOutbox(world), ratePerS: 2_000, seconds: latencyS })
  const label = `drain of ${thousands(large)}`
  const one = middle(drained, 'ratio')
  const limit = middle(raw, 'ratio')
  return [
    plain(label, one.perS, 'events/s'),
    plain(`${label}: first 15 %`, one.first, 'events/s'),
    against(`${label}: last 15 %`, one.last, 'events/s', 'first 15 %', one.ratio, '>= 0.9'),
    against(
      `${label}: raw publish, last 15 %`,
      limit.last,
      'events/s',
      'raw publish, first 15 %',
      limit.ratio,
      null,
    ),
    judged(`${label}: most memory`, Math.max(...drained.map(({ peakRssMb }) => peakRssMb)), 'MB', '<= 250'),
    plain(`${label}: CPU`, one.cpuS, 's'),
    ...latencies(`200/s behind ${thousands(large)} published`, slow, '<= 2', '<= 10'),
    ...latencies(`2,000/s behind ${thousands(large)} published`, fast),
  ]
}

/**
 * Sixteen producers into the outbox and into a plain table, in rounds of one after the other, each first in every second
 * round. The rate moves by a quarter within a minute, so each round is compared with its neighbour: the ratio is the
 * median of the rounds' ratios.
 */
async function measureProducers(world: World, { producerRounds, producerS }: Sizes): Promise<Measurement[]> {
  await world.owner.query(
    `create table billing.plain (
       id uuid primary key default gen_random_uuid(), tenant_id uuid not null, aggregate_type text not null,
       aggregate_id text not null, type text not null, data jsonb not null, occurred_at timestamptz not null default now())`,
  )
  await world.owner.query('grant insert on billing.plain to tabib_app')
  const perS: Record<'plain' | 'outbox', number[]> = { plain: [], outbox: [] }
  const tables = ['plain', 'outbox'] as const
  for (const table of tables) await pgbench(world, `billing.${table}`, 1)
  for (let round = 0; round < producerRounds; round++) {
    for (const table of round % 2 === 0 ? tables : tables.toReversed()) {
      perS[table].push(await pgbench(world, `billing.${table}`, producerS))
    }
  }
  const ratio = median(perS.outbox.map((outbox, round) => outbox / (perS.plain[round] as number)))
  return [
    plain('16 producers into a plain table', median(perS.plain), 'commits/s'),
    against(
      '16 producers into the outbox',
      median(perS.outbox),
      'commits/s',
      'a plain table',
      ratio,
      '>= 0.9',
    ),
  ]
}

interface Drained {
  perS: number
  cpuS: number
  peakRssMb: number
}

/** How fast the stream stored the first and the last 15 %. */
interface Ends {
  first: number
  last: number
  ratio: number
}

async function drainRaw(world: World, count: number, times = 1): Promise<Drained> {
  await freshStream(world)
  await using child = startChild('raw', [count, times].map(String), world.env)
  const { cpuS } = await child.ended
  const perS = await rateBetween(world, 1, count * times)
  say(`  raw ${Math.round(perS)}/s`)
  return { perS, cpuS, peakRssMb: 0 }
}

async function drainByRelay(world: World, count: number, processes: number): Promise<Drained> {
  await freshStream(world)
  // As if never relayed: the same rows are published again.
  await world.owner.query('delete from tabib.outbox_progress')
  const relays = await Promise.all(Array.from({ length: processes }, () => startRelay(world)))
  try {
    await stored(world, count, 120_000)
    const usages = relays.map(({ pid }) => usageOf(pid))
    const perS = await rateBetween(world, 1, count)
    say(`  ${processes} relay${processes === 1 ? '' : 's'} ${Math.round(perS)}/s`)
    return {
      perS,
      cpuS: usages.reduce((sum, { cpuS }) => sum + cpuS, 0),
      peakRssMb: Math.max(...usages.map(({ peakRssMb }) => peakRssMb)),
    }
  } finally {
    await Promise.all(relays.map((relay) => relay[Symbol.asyncDispose]()))
    // Killed while idle: nothing is suspected, and the next run need not wait for the lease to run out.
    await world.owner.query('delete from tabib.outbox_attempt')
    await world.owner.query('update tabib.outbox_lease set released = true')
  }
}

const startRelay = (world: World): Promise<TabibProcess> => world.startWorkers(['outbox-relay'])

// Ordered: mutex by order of commit, segment by aggregate, polling with one event of a segment at a time.
const PEER_SETTINGS = [
  ['replication', 'mutex'],
  ['replication', 'segment'],
  ['polling', '500'],
  ['polling', '500', 'parallel'],
] as const
const ORDERED = ['replication mutex', 'replication segment', 'polling 500']
const POLLING = ['polling 500', 'polling 500 parallel']

const PEER = {
  outboxOrInbox: 'outbox',
  schema: 'peer',
  table: 'outbox',
  listenerRole: 'postgres',
  publication: 'peer_outbox',
  replicationSlot: 'peer_outbox',
  nextMessagesSchema: 'peer',
  nextMessagesName: 'next_outbox_messages',
} as const

/** The peer works as a superuser here: its replication needs a privilege that none of ours has. */
function peerUrl(world: World): string {
  const url = new URL(world.postgres.adminUrl)
  url.pathname = new URL(world.env.TABIB_DATABASE_URL ?? '').pathname
  return url.href
}

async function seedPeer(world: World, count: number): Promise<void> {
  await using admin = openDatabase({ url: peerUrl(world), maxConnections: 2 })
  const config = { ...PEER, database: new URL(peerUrl(world)).pathname.slice(1) }
  await admin.query(DatabaseSetup.dropAndCreateTable(config))
  await admin.query(DatabaseSetup.createPollingFunction(config))
  await admin.query(DatabaseSetup.setupPollingIndexes(config))
  await admin.query(DatabaseSetup.setupReplicationCore(config))
  await admin.query('grant usage on schema peer to tabib_app; grant insert on peer.outbox to tabib_app')
  await freshPeer(admin, count)
}

/** Unprocessed rows, and a slot that has not seen them. */
async function freshPeer(admin: Database, count: number, concurrency = 'sequential'): Promise<void> {
  await admin.query('truncate peer.outbox')
  for (;;) {
    const [slot] = await admin.query<{ active: boolean }>(
      `select active from pg_replication_slots where slot_name = 'peer_outbox'`,
    )
    if (!slot?.active) break
    await delay(50)
  }
  await admin.query(
    `select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = 'peer_outbox'`,
  )
  await admin.query(`select pg_create_logical_replication_slot('peer_outbox', 'pgoutput')`)
  await inBatches(count, (from, to) =>
    admin.query(
      `insert into peer.outbox (id, aggregate_type, aggregate_id, message_type, segment, concurrency, payload)
       select gen_random_uuid(), aggregate_type, aggregate_id, type, aggregate_id, $3, data
       from billing.outbox where seq >= $1 and seq <= $2`,
      [from, to, concurrency],
    ),
  )
  await admin.query('analyze peer.outbox')
}

async function startPeer(world: World, [mode, setting]: (typeof PEER_SETTINGS)[number]) {
  return startChild('peer', [mode, setting], { ...world.env, PEER_DATABASE_URL: peerUrl(world) })
}

async function drainByPeer(
  world: World,
  setting: (typeof PEER_SETTINGS)[number],
  count: number,
  limitS: number,
): Promise<number> {
  await freshStream(world)
  await using admin = openDatabase({ url: peerUrl(world), maxConnections: 2 })
  await freshPeer(admin, count, setting[2] ?? 'sequential')
  await using _peer = await startPeer(world, setting)
  const firstBy = performance.now() + limitS * 1_000
  while ((await messagesIn(world)) === 0 && performance.now() < firstBy) await delay(20)
  const deadline = performance.now() + limitS * 1_000
  while ((await messagesIn(world)) < count && performance.now() < deadline) await delay(100)
  const published = await messagesIn(world)
  const perS = published < 2 ? 0 : await rateBetween(world, 1, published)
  say(`  peer, ${setting.join(' ')}: ${perS.toFixed(1)}/s`)
  return perS
}

const intoOutbox = (world: World) => ({
  stream: STREAM,
  url: serviceUrl(world),
  sql: `insert into billing.outbox (id, tenant_id, aggregate_type, aggregate_id, type, data)
        values ($1, '${TENANT}', 'charge', $2, 'captured', $3)`,
  values: (n: number) => [`a${n % AGGREGATES}`, JSON.stringify({ n, pad: PAD })],
})

const intoPeer = (world: World) => ({
  ...intoOutbox(world),
  sql: `insert into peer.outbox (id, aggregate_type, aggregate_id, message_type, segment, payload)
        values ($1, 'charge', $2, 'captured', $2, $3)`,
})

const serviceUrl = (world: World): string =>
  world.postgres.url('service', new URL(world.env.TABIB_DATABASE_URL ?? '').pathname.slice(1))

const PAD = '0123456789abcdef'.repeat(10)

/** Inserts rows whose events have about 500 bytes, as the service's role does, a thousand a transaction. */
async function seed(world: World, count: number): Promise<void> {
  await inBatches(count, (from, to) =>
    world.service.query(
      `insert into billing.outbox (tenant_id, aggregate_type, aggregate_id, type, data)
       select $3, 'charge', 'a' || (i % $4), 'captured',
         jsonb_build_object('n', i, 'amount_minor', i * 7, 'currency', 'AFN', 'pad', repeat(md5(i::text), 4))
       from generate_series($1::int, $2::int) i`,
      [from, to, TENANT, AGGREGATES],
    ),
  )
  // What loading leaves for the background to do would fall into some runs and not into others.
  await world.owner.query('vacuum analyze billing.outbox')
  await using admin = openDatabase({ url: world.postgres.adminUrl, maxConnections: 1 })
  await admin.query('checkpoint')
}

async function inBatches(
  count: number,
  insert: (from: number, to: number) => Promise<unknown>,
): Promise<void> {
  const SIZE = 1_000
  for (let from = 1; from <= count; from += SIZE) await insert(from, Math.min(from + SIZE - 1, count))
}

/** The stream emptied, and its memory of message ids with it. */
async function freshStream({ app: { nats } }: World): Promise<void> {
  const config = (await nats.stream(STREAM))?.config
  if (!config) throw new Error(`there is no stream ${STREAM}`)
  await nats.deleteStream(STREAM)
  await nats.ensureStream(config)
}

const messagesIn = async ({ app }: World): Promise<number> =>
  (await app.nats.stream(STREAM))?.state.messages ?? 0

async function stored(world: World, count: number, limitMs: number): Promise<void> {
  const deadline = performance.now() + limitMs
  while ((await messagesIn(world)) < count) {
    if (performance.now() > deadline) throw new Error(`not ${count} messages within ${limitMs / 1_000} s`)
    await delay(50)
  }
}

async function rateBetween({ app }: World, from: number, to: number): Promise<number> {
  const [first, last] = [await app.nats.message(STREAM, from), await app.nats.message(STREAM, to)]
  if (!first || !last) throw new Error(`the stream has no message ${first ? to : from}`)
  return ((to - from) * 1_000) / (last.time.getTime() - first.time.getTime())
}

async function idleShare(relay: TabibProcess, seconds: number): Promise<number> {
  // Polls grow rarer for some seconds after the last event.
  await delay(3_000)
  const before = usageOf(relay.pid).cpuS
  const startedAt = performance.now()
  await delay(seconds * 1_000)
  return (usageOf(relay.pid).cpuS - before) / ((performance.now() - startedAt) / 1_000)
}

async function pgbench(world: World, table: string, seconds: number): Promise<number> {
  const { initdb } = await requirePrograms(['initdb'])
  // Debian keeps pgbench beside the server's programs and off the PATH.
  const program = join(dirname(await realpath(initdb)), 'pgbench')
  const folder = await mkdtemp(join(tmpdir(), 'tabib-bench-'))
  try {
    const script = join(folder, 'insert.sql')
    await writeFile(
      script,
      `\\set n random(1, 20000)
       insert into ${table} (tenant_id, aggregate_type, aggregate_id, type, data)
       values ('${TENANT}', 'charge', 'a' || :n, 'captured', '{"n": 1, "pad": "${PAD}"}');\n`,
    )
    const argv = ['-n', '-c', '16', '-j', '2', '-M', 'prepared', '-T', String(seconds), '-f', script]
    const { stdout } = await promisify(execFile)(program, [...argv, serviceUrl(world)])
    const perS = Number(/tps = ([\d.]+)/.exec(stdout)?.[1])
    say(`  producers into ${table}: ${Math.round(perS)}/s`)
    return perS
  } finally {
    await rm(folder, { recursive: true })
  }
}

/** The run whose figure is the median; of an even number, the one above. */
function middle<Figure extends string, Run extends Record<Figure, number>>(runs: Run[], figure: Figure): Run {
  return runs.toSorted((a, b) => a[figure] - b[figure])[runs.length >> 1] as Run
}

function latencies(
  label: string,
  { p50Ms, p99Ms }: Latency,
  p50Target?: string,
  p99Target?: string,
): Measurement[] {
  return [
    judged(`${label}, p50`, p50Ms, 'ms', p50Target ?? null),
    judged(`${label}, p99`, p99Ms, 'ms', p99Target ?? null),
  ]
}

const plain = (name: string, value: number, unit: string): Measurement => judged(name, value, unit, null)

const judged = (name: string, value: number, unit: string, target: string | null): Measurement => ({
  bench: 'outbox',
  case: name,
  value: rounded(value),
  unit,
  against: null,
  ratio: null,
  target,
  ok: target === null ? null : reaches(value, target),
})

const against = (
  name: string,
  value: number,
  unit: string,
  base: string,
  ratio: number,
  target: string | null,
): Measurement => ({
  bench: 'outbox',
  case: name,
  value: rounded(value),
  unit,
  against: base,
  ratio: rounded(ratio),
  target,
  ok: target === null ? null : reaches(ratio, target),
})

const rounded = (value: number): number => (value >= 100 ? Math.round(value) : Math.round(value * 100) / 100)
const thousands = (count: number): string => count.toLocaleString('en')
const say = (line: string): void => {
  process.stderr.write(`${line}\n`)
}
