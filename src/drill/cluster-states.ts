import { execFile } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import { type Diagnosis, diagnose } from '../domain/cluster/judge.ts'
import { observeCluster, openMember } from '../domain/cluster/observe.ts'
import { TabibError } from '../errors.ts'
import type { PatroniNode, PatroniServer } from '../sandbox/servers/patroni.ts'
import type { World } from '../sandbox/world.ts'

/** A state that a cluster can be in, made for real, and what must be said of it. */
export interface ClusterState {
  name: string
  /** Makes it; disposing undoes it. */
  make(cluster: PatroniServer, world: World): Promise<Made>
  verdict: Diagnosis['verdict']
  /** The finding whose fix is pasted; the diagnosis's own command when left out. */
  paste?: string | undefined
  /** How the printed command ends: 0 or 1 where it brings the cluster back. */
  exits?: readonly number[] | undefined
  /** Findings that there must be, as `<id>` or `<id> <member>`; `!<id>`: that there must not be. */
  findings(roles: Made): string[]
}

interface Made extends AsyncDisposable {
  leader: PatroniNode
  standby: PatroniNode
  other: PatroniNode
  /** Where the operator stands, when not with all of it. */
  view?: { patroni: string[]; etcd: string[] } | undefined
}

/** What was said, each time that it changed. */
export interface SeenState {
  name: string
  seen: { atS: number; verdict: Diagnosis['verdict']; says: string; findings: string[]; command?: string }[]
  /** What became of the command that was printed last; undefined where none was. */
  pasted: string | undefined
  /** What should have been said and was not. */
  amiss: string[]
}

const WITHIN_MS = 60_000
const POLL_MS = 500

/** Makes each state in turn, asks until what must be said is said, pastes what is printed, and waits until all is well again. */
export async function runClusterStates(
  world: World,
  states: readonly ClusterState[],
  { signal, say = () => {} }: { signal: AbortSignal; say?: (line: string) => void },
): Promise<SeenState[]> {
  const all: SeenState[] = []
  for (const state of states) {
    if (signal.aborted) break
    await wholeAgain(world)
    const one = await runState(world, state)
    all.push(one)
    say(`${one.amiss.length === 0 ? 'ok' : 'AMISS'} ${state.name}: ${one.amiss.join('; ')}`)
    for (const { atS, verdict, says, findings, command } of one.seen) {
      say(`   ${atS} s ${verdict}: ${says}`)
      for (const finding of findings) say(`        ${finding}`)
      if (command) say(`        > ${command}`)
    }
    if (one.pasted !== undefined) say(`   pasted: ${one.pasted}`)
  }
  return all
}

async function runState(world: World, state: ClusterState): Promise<SeenState> {
  const startedAt = performance.now()
  const result: SeenState = { name: state.name, seen: [], pasted: undefined, amiss: [] }
  await using made = await state.make(world.cluster!, world)
  const wanted = state.findings(made)
  const deadline = performance.now() + WITHIN_MS
  let last: Diagnosis
  for (;;) {
    last = await ask(world, made)
    const { verdict, says, command } = last
    const findings = last.findings.map(
      ({ id, object, message, fix }) => `${id} ${object}: ${message} | ${fix}`,
    )
    const whyNot = last.candidates.map(
      (one) =>
        `${one.name} ${one.wouldLead ? 'would' : one.canBeMade ? 'if made' : 'no'}: ${one.whyNot.join('; ')}`,
    )
    const now = { verdict, says, findings: [...findings, ...whyNot], ...(command && { command }) }
    const { atS: _, ...before } = result.seen.at(-1) ?? { atS: 0 }
    if (withoutFigures(before) !== withoutFigures(now)) {
      result.seen.push({ atS: Math.round((performance.now() - startedAt) / 100) / 10, ...now })
    }
    result.amiss = missing(last, state.verdict, wanted)
    if (result.amiss.length === 0 || performance.now() > deadline) break
    await delay(POLL_MS)
  }
  const fix = last.findings.find(({ id }) => id === `cluster/${state.paste}`)?.fix ?? undefined
  const command = state.paste === undefined ? last.command : fix
  if (command) {
    const [line = ''] = command.split('    #')
    const argv = line.replace('"<why>"', 'rehearsal').split(' ').slice(1)
    const { exitCode, envelope } = await world.tabib(argv)
    const { result: led, error } = envelope as { result?: { leader: string; amiss: string[] }; error?: Error }
    result.pasted = led
      ? `${led.leader} leads${led.amiss.length > 0 ? `; ${led.amiss.join('; ')}` : ''}`
      : `exit ${exitCode}: ${error?.message}`
    if (!(state.exits ?? [0, 1]).includes(exitCode ?? -1)) result.amiss.push(`${line}: ${result.pasted}`)
  }
  return result
}

const withoutFigures = (value: object): string => JSON.stringify(value).replace(/\d+/g, '#')

async function ask({ app }: World, { view }: Made): Promise<Diagnosis> {
  const config = view ? { ...app.config, cluster: { ...app.config.cluster!, ...view } } : app.config
  try {
    return diagnose(await observeCluster({ config, fetch: app.fetch }))
  } catch (error) {
    if (!(error instanceof TabibError)) throw error
    return {
      ...{ scope: '', leader: undefined, verdict: 'leaderless', says: `${error.code}: ${error.message}` },
      ...{ candidates: [], findings: [], command: undefined },
    }
  }
}

function missing(
  { verdict, findings }: Diagnosis,
  wantedVerdict: Diagnosis['verdict'],
  wanted: readonly string[],
): string[] {
  const said = findings.map(({ id, object }) => `${id} ${object}`)
  return [
    ...(verdict === wantedVerdict ? [] : [`verdict ${verdict}, not ${wantedVerdict}`]),
    ...wanted.flatMap((one) => {
      const [id, member] = one
        .replace('!', 'cluster/')
        .replace(/^(?!cluster)/, 'cluster/')
        .split(' ')
      const there = said.some((text) => text.startsWith(`${id} `) && (!member || text.endsWith(` ${member}`)))
      return there === one.startsWith('!') ? [`${one} ${there ? 'is' : 'is not'} among the findings`] : []
    }),
  ]
}

async function wholeAgain(world: World): Promise<void> {
  const deadline = performance.now() + 2 * WITHIN_MS
  for (;;) {
    const state = await observeCluster(world.app).catch(() => undefined)
    const diagnosis = state && diagnose(state)
    const bad = diagnosis?.findings.filter(({ severity }) => severity === 'error' || severity === 'critical')
    const { verdict, candidates = [] } = diagnosis ?? {}
    const ready = candidates.filter(({ canBeMade }) => canBeMade)
    if (verdict === 'led' && bad?.length === 0 && ready.length === 2) return
    if (performance.now() > deadline) {
      throw new TabibError(
        'TIMED_OUT',
        `the cluster is not whole again: ${diagnosis?.says}; ${diagnosis?.findings.map(({ object, message }) => `${object} ${message}`).join('; ')}`,
      )
    }
    await delay(POLL_MS)
  }
}

async function roles(cluster: PatroniServer) {
  const { members } = (await (await fetch(`${cluster.urls[0]}/cluster`)).json()) as {
    members: { name: string; role: string }[]
  }
  const named = (role: string) => members.find((one) => one.role === role)?.name
  const leader = cluster.members.find(({ name }) => name === named('leader'))!
  const others = cluster.members.filter((one) => one !== leader)
  const standby = others.find(({ name }) => name === named('sync_standby')) ?? others[0]!
  return { leader, standby, other: others.find((one) => one !== standby)! }
}

type Roles = Awaited<ReturnType<typeof roles>>

const state = (
  name: string,
  make: (
    roles: Roles,
    cluster: PatroniServer,
    world: World,
  ) => Promise<AsyncDisposable & { view?: Made['view'] }>,
  verdict: Diagnosis['verdict'],
  findings: (roles: Roles) => string[],
  { exits, paste }: Pick<ClusterState, 'exits' | 'paste'> = {},
): ClusterState => ({
  name,
  verdict,
  exits,
  paste,
  findings,
  async make(cluster, world) {
    const who = await roles(cluster)
    const made = await make(who, cluster, world)
    return Object.assign(made, who)
  },
})

const undo = (...faults: (AsyncDisposable | (() => Promise<unknown>))[]): AsyncDisposable => ({
  async [Symbol.asyncDispose]() {
    for (const fault of faults) await (typeof fault === 'function' ? fault() : fault[Symbol.asyncDispose]())
  },
})

const EVERYTHING = ['store', 'members', 'clients'] as const

/** Those of a strictly synchronous cluster of three with three members of etcd, on links and small disks. */
export const SYNCHRONOUS_STATES: readonly ClusterState[] = [
  state(
    'the leader is cut off from everybody',
    async ({ leader }) => leader.isolate(EVERYTHING),
    'led',
    ({ leader }) => [`member-unlisted ${new URL(leader.url).host}`],
  ),
  state(
    'the leader is cut off, and the operator with it',
    async ({ leader, standby, other }) => ({
      ...undo(leader.isolate(['store', 'members']), standby.isolate(['clients']), other.isolate(['clients'])),
      view: { patroni: [leader.url], etcd: [leader.storeUrl] },
    }),
    'leaderless',
    () => ['store-no-majority', 'no-leader'],
  ),
  state(
    'the synchronous standby is cut off from everybody',
    async ({ standby }) => standby.isolate(EVERYTHING),
    'led',
    ({ standby }) => [`member-silent ${standby.name}`, '!sync-missing'],
  ),
  state(
    'the leader is cut off from the store alone',
    async ({ leader }) => leader.isolate(['store']),
    'led',
    ({ leader }) => [`member-unlisted ${new URL(leader.url).host}`],
  ),
  state(
    'a replica is cut off from the store alone',
    async ({ other }) => other.isolate(['store']),
    'led',
    ({ other }) => [`member-unlisted ${new URL(other.url).host}`],
  ),
  state(
    'a replica is gone for longer than the time to live',
    async ({ other }) => {
      await other.killNode()
      await delay(25_000)
      return undo(() => other.restart())
    },
    'led',
    ({ other }) => [`member-unlisted ${new URL(other.url).host}`],
  ),
  state(
    'a replica hangs',
    async ({ other }) => {
      await other.pauseNode()
      return undo(() => other.resumeNode())
    },
    'led',
    ({ other }) => [`member-silent ${other.name}`],
  ),
  state(
    'the disk of the leader is full',
    async ({ leader }, _, world) => {
      const disk = await leader.fillDisk()
      await Promise.race([world.produce('billing', { count: 20_000 }).catch(() => {}), delay(5_000)])
      return disk
    },
    'led',
    ({ leader }) => [`disk-full ${leader.name}`],
    { paste: 'disk-full' },
  ),
  state(
    'the disk of the synchronous standby is full',
    async ({ standby }, _, world) => {
      const disk = await standby.fillDisk()
      await Promise.race([world.produce('billing', { count: 20_000 }).catch(() => {}), delay(5_000)])
      return disk
    },
    'led',
    ({ standby }) => [`member-unfit ${standby.name}`],
  ),
  state(
    'a replica lags over maximum_lag_on_failover',
    async ({ other }, _, world) => {
      const slow = other.lag({ bytesPerS: 20_000 })
      await world.produce('billing', { count: 10_000 })
      return slow
    },
    'led',
    ({ other }) => [`lag-over-maximum ${other.name}`],
  ),
  state(
    'the leader and the synchronous standby die, the third lags',
    async ({ leader, standby, other }, _, world) => {
      const slow = other.lag({ bytesPerS: 20_000 })
      await world.produce('billing', { count: 10_000 })
      await Promise.all([leader.killNode(), standby.killNode()])
      return undo(slow, () => Promise.all([leader.restart(), standby.restart()]))
    },
    'leaderless',
    () => ['sync-names-nobody'],
    // It leads, and strictly nothing is acknowledged until a replica is back.
    { exits: [8] },
  ),
  state(
    'the leader dies in a pause',
    async ({ leader }, cluster) => {
      await patronictl(cluster, ['pause'])
      await leader.killNode()
      // In a pause Patroni starts nothing.
      return undo(
        () => patronictl(cluster, ['resume']),
        () => leader.restart(),
      )
    },
    'leaderless',
    () => ['paused', 'no-leader'],
  ),
  state(
    'the store has no majority',
    async (_, cluster) => {
      const [first, ...others] = cluster.etcds
      await Promise.all(others.map((one) => one.kill()))
      return undo(
        () => Promise.all(others.map((one) => one.restart())),
        async () => first,
      )
    },
    'leaderless',
    () => ['store-no-majority', 'no-leader'],
  ),
  state(
    'Patroni of the leader dies, its Postgres does not',
    async ({ leader }) => {
      await leader.kill()
      return undo(() => leader.restart())
    },
    'led',
    ({ leader }) => [`leader-unwatched ${leader.name}`],
  ),
  state(
    'Patroni of a replica dies, its Postgres does not',
    async ({ other }) => {
      await other.kill()
      return undo(() => other.restart())
    },
    'led',
    ({ other }) => [`member-silent ${other.name}`],
  ),
  state(
    'the leader dies and the store has no majority',
    async ({ leader }, cluster) => {
      const [, ...others] = cluster.etcds
      await Promise.all([leader.killNode(), ...others.map((one) => one.kill())])
      return undo(
        () => Promise.all(others.map((one) => one.restart())),
        () => leader.restart(),
      )
    },
    'leaderless',
    () => ['store-no-majority', 'no-leader'],
  ),
]

/** Those of an asynchronous cluster that may not rewind, on links. */
export const ASYNCHRONOUS_STATES: readonly ClusterState[] = [
  state(
    'both replicas lag over maximum_lag_on_failover, and the leader dies',
    async ({ leader, standby, other }, _, world) => {
      const slow = [standby, other].map((one) => one.lag({ bytesPerS: 20_000 }))
      await world.produce('billing', { count: 10_000 })
      // Until the leader has told the store how far it is.
      await delay(3_000)
      await leader.killNode()
      return undo(...slow, () => leader.restart())
    },
    'leaderless',
    () => ['no-leader'],
  ),
  state(
    'both replicas are tagged nofailover, and the leader dies',
    async ({ leader, standby, other }) => {
      const tagged = await Promise.all([standby, other].map(tagNofailover))
      await leader.killNode()
      return undo(...tagged, () => leader.restart())
    },
    'leaderless',
    () => ['no-leader'],
  ),
  state(
    'a former leader has what the cluster has not, and cannot be rewound',
    async ({ leader }, cluster, world) => {
      const cut = leader.isolate(['store', 'members'])
      await using alone = openMember(world.app.config, { host: '127.0.0.1', port: leader.postgresPort })!
      await alone.query(`select pg_logical_emit_message(true, 'alone', repeat('x', 100000))`)
      await until(async () => ![undefined, leader.name].includes(await ledBy(cluster)))
      await cut[Symbol.asyncDispose]()
      return undo(() => patronictl(cluster, ['reinit', '--force'], leader.name))
    },
    'led',
    ({ leader }) => [`timeline-behind ${leader.name}`],
  ),
]

async function tagNofailover(node: PatroniNode): Promise<AsyncDisposable> {
  const before = await readFile(node.configFile, 'utf8')
  await writeFile(node.configFile, before.replace(/^tags:.*$/m, 'tags: { nofailover: true }'))
  const reload = () => fetch(`${node.url}/reload`, { method: 'POST' })
  await reload()
  return undo(() => writeFile(node.configFile, before), reload)
}

async function ledBy(cluster: PatroniServer): Promise<string | undefined> {
  const answers = await Promise.all(
    cluster.members.map(({ name, url }) =>
      fetch(`${url}/primary`, { signal: AbortSignal.timeout(1_000) }).then(
        ({ ok }) => (ok ? name : undefined),
        () => undefined,
      ),
    ),
  )
  return answers.find((name) => name !== undefined)
}

async function until(ask: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + WITHIN_MS
  while (!(await ask())) {
    if (performance.now() > deadline) throw new TabibError('TIMED_OUT', 'the state did not come about')
    await delay(POLL_MS)
  }
}

async function patronictl(cluster: PatroniServer, argv: string[], ...rest: string[]): Promise<void> {
  const { configFile } = cluster.members.at(-1)!
  await promisify(execFile)('patronictl', ['-c', configFile, ...argv, cluster.scope, ...rest])
}
