import { setTimeout as delay } from 'node:timers/promises'
import { outboxPending } from '../domain/outbox/backlog.ts'
import { compareWithStream } from '../domain/outbox/compare.ts'
import { TabibError } from '../errors.ts'
import { type Chance, randomFrom } from '../sandbox/random.ts'
import type { TabibProcess, World } from '../sandbox/world.ts'
import { type Service, schemaOf } from '../service.ts'

export interface ChaosOptions {
  /** How many times something is hurt. */
  rounds: number
  seed: number
  signal: AbortSignal
  say?: (line: string) => void
}

export interface ChaosResult {
  events: number
  /** How often each was hurt. */
  faults: Record<string, number>
  /** Seconds from the last fault until everything committed was in the stream. */
  settledS: number
  /** Events missing, doubled or out of order; empty when all is well. */
  lost: string[]
}

const SERVICE: Service = 'billing'
const PRODUCERS = 6
const AGGREGATES = 40
const LEASE_TTL_MS = 5_000
const SETTLE_LIMIT_MS = 120_000

/**
 * Hurts a platform at work: producers commit, late or not at all, while both relays, NATS and Postgres are killed or
 * paused at random moments; then everything committed is compared with everything in the stream. Deterministic in what
 * it hurts and how long it waits, not in what the machine makes of it.
 *
 * @throws TabibError TIMED_OUT when the outbox is not drained two minutes after the last fault.
 */
export async function runChaos(
  world: World,
  { rounds, seed, signal, say }: ChaosOptions,
): Promise<ChaosResult> {
  const chance = randomFrom(seed)
  const producing = new AbortController()
  const producers = Array.from({ length: PRODUCERS }, (_, i) =>
    produceUntil(world, randomFrom(seed + 1 + i), producing.signal),
  )
  const relays = [startRelay(world), startRelay(world)]
  const faults: ChaosResult['faults'] = {}
  const hurt: Record<string, () => Promise<void>> = {
    'relay killed': async () => {
      const i = between(chance, 0, 1)
      await kill(relays[i]!)
      relays[i] = startRelay(world)
    },
    'both relays killed': async () => {
      await Promise.all(relays.map(kill))
      relays[0] = startRelay(world)
      relays[1] = startRelay(world)
    },
    'relay paused past its lease': async () => {
      const relay = relays[between(chance, 0, 1)]!
      relay.signal('SIGSTOP')
      await delay(LEASE_TTL_MS + 1_000)
      relay.signal('SIGCONT')
    },
    'NATS killed': async () => {
      await world.nats.kill()
      await delay(between(chance, 0, 800))
      await world.nats.restart()
    },
    'Postgres killed': async () => {
      await world.postgres.kill()
      await delay(between(chance, 0, 500))
      await world.postgres.restart()
    },
  }
  // Kills of a relay are what this is about; a pause costs six seconds.
  const dice = [
    'relay killed',
    'relay killed',
    'relay killed',
    'both relays killed',
    'NATS killed',
    'NATS killed',
    'Postgres killed',
    'relay paused past its lease',
  ]
  try {
    for (let round = 1; round <= rounds; round++) {
      signal.throwIfAborted()
      await delay(between(chance, 100, 1_500))
      const what = chance.pick(dice)
      await hurt[what]!()
      faults[what] = (faults[what] ?? 0) + 1
      say?.(`${round}/${rounds} ${what}`)
    }
  } finally {
    producing.abort()
    await Promise.all(producers)
  }

  const lastFaultAt = performance.now()
  while ((await outboxPending(world.app, { service: SERVICE })) > 0) {
    signal.throwIfAborted()
    if (performance.now() - lastFaultAt > SETTLE_LIMIT_MS) {
      const waiting = await outboxPending(world.app, { service: SERVICE })
      throw new TabibError(
        'TIMED_OUT',
        `${waiting} events are not published two minutes after the last fault`,
      )
    }
    await delay(100)
  }
  const settledS = Math.round(performance.now() - lastFaultAt) / 1_000
  await Promise.all(relays.map((relay) => relay[Symbol.asyncDispose]()))
  const lost = await compareWithStream(world.app, { service: SERVICE })
  const [quarantined] = await world.db.query<{ n: number }>(
    `select count(*)::float8 as n from tabib.quarantine where service = $1`,
    [SERVICE],
  )
  if (quarantined && quarantined.n > 0) lost.push(`${quarantined.n} sound events are in quarantine`)
  const [committed] = await world.db.query<{ n: number }>(
    `select count(*)::float8 as n from ${schemaOf(SERVICE)}.outbox`,
  )
  return { events: committed?.n ?? 0, faults, settledS, lost }
}

const startRelay = (world: World): TabibProcess => world.spawn(['worker', 'run', 'outbox-relay'])

async function kill(relay: TabibProcess): Promise<void> {
  relay.signal('SIGKILL')
  await relay.exited
}

/** One producer: transactions over a few aggregates, whose locks give their events an order; some late, some undone. */
async function produceUntil(world: World, chance: Chance, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    try {
      await world.service.transaction(async (tx) => {
        // Sorted, so that producers never wait for each other in a circle.
        const touched = Array.from({ length: between(chance, 1, 4) }, () =>
          between(chance, 1, AGGREGATES),
        ).sort((a, b) => a - b)
        for (const aggregate of touched) {
          await tx.query('select pg_advisory_xact_lock($1)', [aggregate])
          await tx.query(
            `insert into ${schemaOf(SERVICE)}.outbox (tenant_id, aggregate_type, aggregate_id, type, data)
             values (gen_random_uuid(), 'account', $1, 'moved', $2)`,
            [String(aggregate), JSON.stringify({ pad: 'x'.repeat(between(chance, 0, 400)) })],
          )
        }
        if (chance.happens(0.05)) await delay(between(chance, 50, 600))
        if (chance.happens(0.1)) throw new RolledBack()
      })
    } catch (error) {
      if (error instanceof RolledBack) continue
      // Postgres is away: an ordinary service waits and tries again.
      await delay(100)
    }
    await delay(between(chance, 0, 15))
  }
}

const between = (chance: Chance, low: number, high: number): number => low + chance.below(high - low + 1)

class RolledBack extends Error {}
