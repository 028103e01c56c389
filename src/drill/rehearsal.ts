import { setTimeout as delay } from 'node:timers/promises'
import type { BuiltMode } from '../catalog/failure-mode.ts'
import { readStatus } from '../catalog/status.ts'
import { SEAL_KEY_POLICY, SEAL_PURPOSE } from '../domain/ledger/seal.ts'
import { outboxPending } from '../domain/outbox/backlog.ts'
import { compareWithStream } from '../domain/outbox/compare.ts'
import { TabibError } from '../errors.ts'
import { type PlatformCounts, seedPlatform } from '../sandbox/platform.ts'
import { ensureKey } from '../sandbox/visit.ts'
import type { World } from '../sandbox/world.ts'
import { SERVICES } from '../service.ts'

export interface Rehearsal {
  platform: PlatformCounts
  /** Events a second while the relay drained the platform's backlog, faults and all. */
  relayedPerS: number
  faults: { what: string; backS: number }[]
  /** One entry a worker that made a pass. */
  workers: { name: string; exitCode: number | null }[]
  /** Sessions that ended, and charges made for them: the same number when consumers lose and double nothing. */
  sessionsEnded: number
  charges: number
  /** Committed events that are missing, doubled or out of order; empty when all is well. */
  lost: string[]
  firing: string[]
}

export interface RehearsalOptions {
  seed: number
  scale: number
  /** Every built mode: asked at the end. */
  catalog: readonly BuiltMode[]
  /** Workers that make one pass each at the end. */
  scheduled: readonly string[]
  say: (line: string) => void
  signal: AbortSignal
}

const LIMIT_MS = 240_000

/**
 * The main job, on servers of one's own: a platform's worth of events is relayed and consumed while NATS is killed and
 * then the relay itself; every worker makes a pass; and everything committed is counted against everything delivered.
 *
 * @throws TabibError TIMED_OUT when something does not come to its end within four minutes.
 */
export async function rehearsePlatform(world: World, options: RehearsalOptions): Promise<Rehearsal> {
  const { seed, scale, say, signal, scheduled, catalog } = options
  const deadline = performance.now() + LIMIT_MS
  const until = async (what: string, met: () => Promise<boolean>) => {
    while (!(await met())) {
      signal.throwIfAborted()
      if (performance.now() > deadline)
        throw new TabibError('TIMED_OUT', `${what}: not within ${LIMIT_MS / 1_000} s`)
      await delay(100)
    }
  }
  const pending = async () => {
    const each = await Promise.all(SERVICES.map((service) => outboxPending(world.app, { service })))
    return each.reduce((sum, one) => sum + one, 0)
  }

  await ensureKey(world.app, SEAL_PURPOSE, SEAL_KEY_POLICY)
  const platform = await seedPlatform(world, { seed, scale })
  say(
    `${platform.tenants} clinics, ${platform.patients} patients, ${platform.appointments} appointments; ` +
      `${platform.events} events wait in the outboxes`,
  )

  const faults: Rehearsal['faults'] = []
  const startedAt = performance.now()
  const inbox = await world.startWorkers(['inbox'])
  let relay = await world.startWorkers(['outbox-relay'])
  await until('the relay starts', async () => (await pending()) < platform.events * 0.9)

  await world.nats.kill()
  let faultAt = performance.now()
  // Producers do not notice: their events wait in Postgres.
  await world.produce('billing', { count: 100 })
  await world.nats.restart()
  const left = await pending()
  await until('the relay resumes', async () => (await pending()) < left)
  faults.push({ what: 'NATS killed (SIGKILL) and started again', backS: seconds(faultAt) })
  say(`NATS was killed while events flowed; the relay went on ${seconds(faultAt).toFixed(1)} s later`)

  relay.signal('SIGKILL')
  await relay.exited
  faultAt = performance.now()
  relay = await world.startWorkers(['outbox-relay'])
  await until('a second relay takes over', async () => (await pending()) === 0)
  const drainedS = seconds(startedAt)
  faults.push({ what: 'relay killed (SIGKILL), another took over and drained', backS: seconds(faultAt) })
  say(
    `the relay was killed; its successor took over and drained the rest in ${seconds(faultAt).toFixed(1)} s`,
  )

  const ended = await count(
    world,
    `select count(*)::float8 as n from virtual_care.outbox where type = 'ended'`,
  )
  const handled = () =>
    count(world, `select count(*)::float8 as n from billing.inbox where consumer = 'charge-capture'`)
  await until('consumers handle every event', async () => (await handled()) >= ended)
  const charges = await count(
    world,
    'select count(*)::float8 as n from billing.charge where event_id is not null',
  )
  say(`${ended} sessions ended, ${charges} charges captured by the consumer`)

  const workers: Rehearsal['workers'] = []
  for (const name of scheduled) {
    const { exitCode } = await world.tabib(['worker', 'run', name, '--once'])
    workers.push({ name, exitCode })
  }
  say(`${workers.length} scheduled workers made a pass: ${workers.map(({ name }) => name).join(', ')}`)

  const lost = (
    await Promise.all(SERVICES.map((service) => compareWithStream(world.app, { service })))
  ).flat()
  if (charges !== ended) lost.push(`${ended} sessions ended and ${charges} charges were made`)
  const firing = (await readStatus(world.app, catalog))
    .filter(({ verdict }) => verdict === 'firing')
    .map(({ id }) => id)
  await relay[Symbol.asyncDispose]()
  await inbox[Symbol.asyncDispose]()
  return {
    platform,
    relayedPerS: Math.round(platform.events / drainedS),
    faults,
    workers,
    sessionsEnded: ended,
    charges,
    lost,
    firing,
  }
}

async function count(world: World, query: string): Promise<number> {
  const [row] = await world.db.query<{ n: number }>(query)
  return row?.n ?? 0
}

const seconds = (sinceMs: number): number => Math.round(performance.now() - sinceMs) / 1_000
