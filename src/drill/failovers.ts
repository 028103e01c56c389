import { setTimeout as delay } from 'node:timers/promises'
import { openMember } from '../domain/cluster/observe.ts'
import { takesWrites } from '../domain/cluster/writable.ts'
import { outboxPending } from '../domain/outbox/backlog.ts'
import { compareWithStream } from '../domain/outbox/compare.ts'
import { TabibError } from '../errors.ts'
import { randomFrom } from '../sandbox/random.ts'
import type { PatroniNode } from '../sandbox/servers/patroni.ts'
import type { World } from '../sandbox/world.ts'

export interface FailoversOptions {
  rounds: number
  seed: number
  signal: AbortSignal
  say?: (line: string) => void
}

/** One kill of the primary. Seconds are counted from it. */
export interface FailoverRound {
  killed: 'postgres' | 'node'
  from: string
  to: string
  /** Until billing/FM-01's own detector saw it; null where a killed Postgres was back before it looked. */
  detectS: number | null
  /** Until a Postgres was primary again. */
  promoteS: number
  /** Until a write was acknowledged again. */
  recoverS: number
  /** Until the killed one streams again and a synchronous standby is named. */
  wholeS: number
}

export interface FailoversResult {
  rounds: FailoverRound[]
  acknowledged: number
  published: number
  /** Looks at all members' Postgres; how many saw two that take writes. */
  looks: number
  twoLeaders: number
  /** Acknowledged and not there, not in the stream, twice in it, out of order, or in it and not there; empty when all is well. */
  lost: string[]
}

const WRITERS = 4
const LIMIT_MS = 90_000
const POLL_MS = 50

/**
 * Kills the primary (SIGKILL, by turns its Postgres alone and all of its host) under a steady load of writes with two
 * relays at work, and starts it again; after each round what was acknowledged, what is there and what is in the stream
 * are compared.
 *
 * @throws TabibError TIMED_OUT when something is not back 90 s after a kill.
 */
export async function runFailovers(
  world: World,
  { rounds, seed, signal, say }: FailoversOptions,
): Promise<FailoversResult> {
  const chance = randomFrom(seed)
  const result: FailoversResult = {
    rounds: [],
    acknowledged: 0,
    published: 0,
    looks: 0,
    twoLeaders: 0,
    lost: [],
  }
  const stop = new AbortController()
  await using _first = await world.startWorkers(['outbox-relay'])
  await using _second = await world.startWorkers(['outbox-relay'])
  await using probes = openProbes(world)
  const writes = startWrites(world, stop.signal)
  const watched = watchLeaders(probes, result, stop.signal)
  try {
    for (let n = 1; n <= rounds && !signal.aborted; n += 1) {
      await delay(500 + chance.below(1_500))
      const round = await kill(world, { writes, probes }, n % 2 === 0 ? 'postgres' : 'node')
      result.rounds.push(round)
      result.lost.push(...(await missing(world, [...writes.acknowledged])))
      say?.(
        `${n}/${rounds} ${round.killed} of ${round.from}, ${round.to} leads: detect ${round.detectS ?? '-'} s, promote ${round.promoteS} s, recover ${round.recoverS} s, whole ${round.wholeS} s; ${writes.acknowledged.length} acknowledged`,
      )
      if (result.lost.length > 0) break
    }
  } finally {
    stop.abort()
    await Promise.all([writes.ended, watched])
  }
  await until('the outbox is drained', async () => (await outboxPending(world.app, BILLING)) === 0)
  result.acknowledged = writes.acknowledged.length
  result.published = (await world.app.nats.stream('billing-evt'))?.state.messages ?? 0
  result.lost.push(
    ...(await missing(world, writes.acknowledged)),
    ...(await compareWithStream(world.app, BILLING)),
  )
  return result
}

const BILLING = { service: 'billing' } as const

async function kill(
  world: World,
  { writes, probes }: { writes: Writes; probes: Probes },
  killed: FailoverRound['killed'],
): Promise<FailoverRound> {
  const cluster = world.cluster!
  const { leader } = await cluster.synchronised()
  const startedAt = performance.now()
  const elapsed = () => Math.round((performance.now() - startedAt) / 10) / 100
  await (killed === 'postgres' ? leader.killPostgres() : leader.killNode())
  const before = writes.acknowledged.length
  let recoveredS: number | undefined
  const detected = until('the detector fires', async () => {
    if ((await takesWrites(world.app)).value === 0) return elapsed()
    // Patroni starts a Postgres again within a second or four; a host that died is away for as long as its leader key.
    return killed === 'postgres' && recoveredS !== undefined ? null : false
  })
  const promoted = until('a Postgres is primary', () => primaryOf(probes)).then((to) => ({
    to,
    atS: elapsed(),
  }))
  const recovered = promoted.then(async (by) => {
    await until('a write is acknowledged', async () => writes.acknowledged.length > before)
    recoveredS = elapsed()
    return { ...by, recoverS: recoveredS }
  })
  const [detectS, { to, atS: promoteS, recoverS }] = await Promise.all([detected, recovered])
  if (killed === 'node') await leader.restart()
  await until('everybody streams', async () => {
    const { members = [] } = (await (await fetch(`${cluster.urls[0]}/cluster`)).json()) as {
      members?: { role: string; state: string }[]
    }
    return (
      members.filter(({ state }) => state === 'running' || state === 'streaming').length ===
        cluster.members.length && members.some(({ role }) => role === 'sync_standby')
    )
  })
  return { killed, from: leader.name, to: to.name, detectS, promoteS, recoverS, wholeS: elapsed() }
}

interface Writes {
  acknowledged: string[]
  ended: Promise<unknown>
}

/** Several clients commit one event after another; what fails, they leave. */
function startWrites(world: World, signal: AbortSignal): Writes {
  const acknowledged: string[] = []
  const write = async () => {
    while (!signal.aborted) {
      const written = await world.produce('billing', { count: 1 }).catch((): string[] => [])
      acknowledged.push(...written)
      await delay(written.length === 0 ? 100 : 20)
    }
  }
  return { acknowledged, ended: Promise.all(Array.from({ length: WRITERS }, write)) }
}

/** Asks every member's own Postgres, again and again, whether it is primary. */
async function watchLeaders(probes: Probes, result: FailoversResult, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    const primaries = await Promise.all(probes.map(({ isPrimary }) => isPrimary()))
    result.looks += 1
    if (primaries.filter(Boolean).length > 1) result.twoLeaders += 1
    await delay(POLL_MS)
  }
}

interface Probe extends AsyncDisposable {
  node: PatroniNode
  isPrimary(): Promise<boolean>
}
type Probes = Probe[]

function openProbes(world: World): Probes & AsyncDisposable {
  const probes = world.cluster!.members.map((node): Probe => {
    const db = openMember(world.app.config, { host: '127.0.0.1', port: node.postgresPort })!
    return {
      node,
      isPrimary: async () => {
        const [row] = await db
          .query<{ primary: boolean }>('select not pg_is_in_recovery() as primary')
          .catch(() => [{ primary: false }])
        return row?.primary ?? false
      },
      [Symbol.asyncDispose]: () => db.close(),
    }
  })
  return Object.assign(probes, {
    [Symbol.asyncDispose]: async () =>
      void (await Promise.all(probes.map((one) => one[Symbol.asyncDispose]()))),
  })
}

async function primaryOf(probes: Probes): Promise<PatroniNode | undefined> {
  const primaries = await Promise.all(probes.map(({ isPrimary }) => isPrimary()))
  return probes[primaries.indexOf(true)]?.node
}

async function missing(world: World, acknowledged: readonly string[]): Promise<string[]> {
  const rows = await world.db.query<{ id: string }>(
    `select a.id from unnest($1::text[]) a (id)
     where not exists (select from billing.outbox o where o.id::text = a.id)`,
    [acknowledged],
  )
  return rows.map(({ id }) => `${id} was acknowledged and is not there`)
}

/** Resolves with the first answer that is not false or undefined; what fails meanwhile is asked again. */
async function until<T>(what: string, ask: () => Promise<T | false | undefined>): Promise<T> {
  const deadline = performance.now() + LIMIT_MS
  for (;;) {
    const answer = await ask().catch(() => undefined)
    if (answer !== undefined && answer !== false) return answer
    if (performance.now() > deadline) {
      throw new TabibError('TIMED_OUT', `${what}: not within ${LIMIT_MS / 1_000} s`)
    }
    await delay(POLL_MS)
  }
}
