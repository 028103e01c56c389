import { hostname } from 'node:os'
import { setTimeout as delay } from 'node:timers/promises'
import { openScheduler, type Schedule, type Scheduler } from './adapters/redis/scheduler.ts'
import type { App } from './app.ts'
import { assertMigrated } from './domain/schema/migrate.ts'
import { type Heartbeat, type Instance, recordHeartbeat } from './domain/workers/heartbeat.ts'
import { acquirePassLease, type PassLease, releasePassLease, renewPassLease } from './domain/workers/lease.ts'
import { TabibError } from './errors.ts'
import { redactUrls } from './render.ts'

/** What a pass did: counts, ids and words, never payloads or personal data. */
export type WorkerResult = object

/** A worker that makes a pass every so often, on one host at a time. */
export interface ScheduledWorker {
  name: string
  /** What it does, as `worker list` says it. */
  describe: string
  cadence: { everyMs: number; limitMs?: number }
  needs: readonly System[]
  /** One pass. It ends early, in order, when `signal` aborts: the process drains, or the pass took too long. */
  pass(app: App, signal: AbortSignal): Promise<WorkerResult>
}

/** A worker that never pauses: one or several loops side by side, each with a cadence of its own. */
export interface ContinuousWorker<L extends string = string> {
  name: string
  describe: string
  /** Each loop must be heard from within `aliveWithinMs`; one that hangs stops the worker's heartbeat. */
  cadence: { loops: readonly L[]; aliveWithinMs: number }
  needs: readonly System[]
  /** Runs one loop until the signal. If it throws, it alone is started again after a while. */
  run(app: App, loop: Loop<L>): Promise<void>
  /** What `--once` does in each loop: works until nothing is left. `skipped` names who is at it already. */
  once(app: App, loop: Loop<L>): Promise<Outcome>
}

export type Worker = ScheduledWorker | ContinuousWorker
export type System = 'nats' | 'redis'

/** `skipped`: nothing was done, because that process is at it. */
export type Outcome = WorkerResult & { skipped?: string }

/** What a loop knows of its place, and how it tells how it fares. */
export interface Loop<L extends string = string> {
  readonly name: L
  readonly instance: Instance
  readonly signal: AbortSignal
  /** A round ended well, with work done or none. */
  passed(result: WorkerResult): void
  /** A round failed, with an error or for a reason in words; the loop goes on by itself, after a wait. */
  failed(why: unknown): void
}

/** A worker at work in this process. */
export interface RunningWorker {
  readonly worker: Worker
  readonly state: WorkerState
  /** Whether it makes progress: no pass beyond its limit, no loop silent for too long. */
  alive(): boolean
  /** Lets the pass under way end and starts no other. Settles when the worker has stopped. */
  drain(): Promise<void>
}

/** What a worker did since this process started. Times are `performance.now()`. */
export interface WorkerState {
  passes: number
  failures: number
  /** Start of the pass under way, or of the last. */
  passStartedAt: number | undefined
  passing: boolean
  lastPassAt: number | undefined
  nextPassAt: number | undefined
  /** By loop; a scheduled worker counts as one, with its own name. */
  results: Map<string, WorkerResult>
  /** Loops whose last round failed, and how. */
  errors: Map<string, string>
  /** By loop: the sums of all counts that its rounds returned. */
  totals: Map<string, Record<string, number>>
  heardAt: Map<string, number>
}

const BEAT_EVERY_MS = 5_000
// Two beats may be lost to a slow database before anybody is woken.
const EXPECTED_EVERY_S = 15
const LEASE_TTL_MS = 15_000
const PASS_LIMIT_MS = 300_000
const SHORTEST_BACK_OFF_MS = 1_000
const LONGEST_BACK_OFF_MS = 60_000
const SHORTEST_NAP_MS = 100
// How long a worker that could not begin looks away: the database is back meanwhile, and waits for it.
const LONGEST_WAIT_MS = 2_000
// How much later than due a job of the scheduler may begin before the timer makes the pass.
const LONGEST_PATIENCE_MS = 5_000
// A pass that nothing here or elsewhere has begun so long after it was due: the worker itself hangs.
const OVERDUE_LIMIT_MS = 60_000

/** This process as heartbeats and leases name it. */
export function thisInstance(version: string): Instance {
  const host = hostname()
  return {
    id: `${host}:${process.pid}:${Math.round(performance.timeOrigin)}`,
    host,
    pid: process.pid,
    version,
  }
}

/** The workers of one process. */
export interface Fleet {
  readonly running: readonly RunningWorker[]
  /** Whether the schedule's Redis answers; undefined when no worker here is scheduled by it. */
  readonly scheduled: boolean | undefined
  /** Drains all at once, within `limitMs`. Returns the names of those that had not stopped by then. */
  drain(limitMs: number): Promise<string[]>
}

/**
 * Starts workers; whatever fails, they go on until they are drained. Without Redis, or while it is away, a scheduled
 * worker keeps its cadence by a timer of its own. Where the database was not seen to be `migrated`, since it is away, each
 * begins only once it is.
 */
export function startWorkers(
  app: App,
  workers: readonly Worker[],
  instance: Instance,
  { migrated = true }: { migrated?: boolean } = {},
): Fleet {
  const url = workers.every(isContinuous) ? undefined : app.config.redisUrl
  const scheduler =
    url === undefined ? undefined : openScheduler({ url, warn: (message) => app.log.warn(message) })
  const running = workers.map((worker) => startWorker(app, worker, instance, { scheduler, migrated }))
  return {
    running,
    get scheduled() {
      return scheduler?.connected
    },
    async drain(limitMs) {
      const left = new Set(running.map(({ worker }) => worker.name))
      const drained = Promise.all(
        running.map(async (one) => {
          await one.drain()
          left.delete(one.worker.name)
        }),
      )
      const limit = new AbortController()
      await Promise.race([drained, nap(limitMs, limit.signal)])
      limit.abort()
      await scheduler?.[Symbol.asyncDispose]()
      return [...left]
    },
  }
}

function startWorker(
  app: App,
  worker: Worker,
  instance: Instance,
  { scheduler, migrated }: { scheduler: Scheduler | undefined; migrated: boolean },
): RunningWorker {
  const stop = new AbortController()
  const site = openSite(app, worker, instance, stop.signal)
  const work = (async () => {
    if (!migrated) await untilMigrated(site, worker)
    await (isContinuous(worker) ? runLoops(site, worker) : runSchedule(site, worker, scheduler))
  })()
  void site.beat()
  site.log.info('started')
  return {
    worker,
    state: site.state,
    alive: site.alive,
    async drain() {
      stop.abort()
      await work
      await site.end()
      site.log.info({ passes: site.state.passes, failures: site.state.failures }, 'drained')
    },
  }
}

/**
 * What `--once` does: one pass, unless another process is at it.
 *
 * @throws whatever the pass threw.
 */
export async function runOnce(
  app: App,
  worker: Worker,
  instance: Instance,
  signal: AbortSignal,
): Promise<Outcome> {
  const site = openSite(app, worker, instance, signal)
  let outcome: Outcome
  try {
    outcome = await (isContinuous(worker) ? everyLoopOnce(site, worker) : onePass(site, worker))
  } catch (error) {
    await site.end()
    throw error
  }
  // Whoever skipped has seen nothing of the worker: the heartbeat belongs to the one that is at it.
  if (outcome.skipped === undefined) await site.end()
  return outcome
}

async function onePass(site: Site, worker: ScheduledWorker): Promise<Outcome> {
  const attempt = await passAlone(site, worker, 0)
  if (attempt.kind === 'passed') return attempt.result
  return { skipped: attempt.kind === 'busy' ? attempt.holder : 'a pass that has just ended' }
}

async function everyLoopOnce(site: Site, worker: ContinuousWorker): Promise<Outcome> {
  const work = worker.cadence.loops.map(async (name) => {
    const loop = site.loop(name)
    try {
      const outcome = await worker.once(site.app, loop)
      if (outcome.skipped === undefined) loop.passed(outcome)
      return [name, outcome] as const
    } catch (error) {
      loop.failed(error)
      throw error
    }
  })
  // All end before the first failure is thrown: none is left at work behind the caller's back.
  await Promise.allSettled(work)
  const outcomes = await Promise.all(work)
  const skipped = outcomes.map(([, outcome]) => outcome.skipped)
  return {
    ...Object.fromEntries(outcomes),
    ...(skipped.every((holder) => holder !== undefined) && { skipped: skipped[0] }),
  }
}

/** Everything around one worker in one process. */
interface Site {
  readonly app: App
  readonly instance: Instance
  readonly signal: AbortSignal
  readonly state: WorkerState
  readonly log: App['log']
  loop(name: string): Loop
  alive(): boolean
  /** Writes the heartbeat now, and from now on every few seconds. Never throws. */
  beat(): Promise<void>
  /** The last heartbeat: says that the worker stopped of its own will. */
  end(): Promise<void>
}

function openSite(app: App, worker: Worker, instance: Instance, signal: AbortSignal): Site {
  const log = app.log.child({ worker: worker.name })
  const state: WorkerState = {
    passes: 0,
    failures: 0,
    passStartedAt: undefined,
    passing: false,
    lastPassAt: undefined,
    nextPassAt: undefined,
    results: new Map(),
    errors: new Map(),
    totals: new Map(),
    heardAt: new Map(
      isContinuous(worker) ? worker.cadence.loops.map((name) => [name, performance.now()]) : [],
    ),
  }
  const loop = (name: string): Loop => ({
    name,
    instance,
    signal,
    passed(result) {
      const now = performance.now()
      state.passes += 1
      state.lastPassAt = now
      state.heardAt.set(name, now)
      state.results.set(name, result)
      addCounts(state.totals, name, result)
      if (state.errors.delete(name)) log.info({ loop: name }, 'works again')
    },
    failed(why) {
      const text = typeof why === 'string' ? why : errorText(why)
      state.failures += 1
      state.heardAt.set(name, performance.now())
      // A back-off may fail many times an hour with the same words.
      if (state.errors.get(name) !== text) log.error({ loop: name, error: text }, 'failed')
      state.errors.set(name, text)
    },
  })
  const alive = () => isAlive(worker, state)

  let timer: NodeJS.Timeout | undefined
  let writing: Promise<void> | undefined
  let unwritten = false
  const write = async (stopped: boolean) => {
    try {
      await recordHeartbeat(app, instance, heartbeatOf(worker, state, alive()), { stopped })
      unwritten = false
    } catch (error) {
      if (!unwritten) log.warn({ error: errorText(error) }, 'the heartbeat could not be written')
      unwritten = true
    }
  }
  const beat = async () => {
    timer ??= setInterval(() => {
      if (!writing) void beat()
    }, BEAT_EVERY_MS)
    // What is being written may be older than what is to be told.
    await writing
    writing = write(false).finally(() => {
      writing = undefined
    })
    await writing
  }
  return {
    app,
    instance,
    signal,
    state,
    loop,
    log,
    alive,
    beat,
    async end() {
      clearInterval(timer)
      await writing
      await write(true)
    },
  }
}

/** Waits for a database that this version fits; meanwhile every loop is heard from, and fails. */
async function untilMigrated({ app, signal, loop }: Site, worker: Worker): Promise<void> {
  const names = isContinuous(worker) ? worker.cadence.loops : [worker.name]
  while (!signal.aborted) {
    try {
      return await assertMigrated(app)
    } catch (error) {
      for (const name of names) loop(name).failed(error)
      await nap(Math.min(LONGEST_WAIT_MS, backOffMs(1)), signal)
    }
  }
}

/** Runs a continuous worker's loops; one that ends or throws although nobody asked it to is started again. */
async function runLoops(site: Site, worker: ContinuousWorker): Promise<void> {
  await Promise.all(worker.cadence.loops.map((name) => runLoop(site, worker, site.loop(name))))
}

async function runLoop({ app, signal }: Site, worker: ContinuousWorker, loop: Loop): Promise<void> {
  for (let failures = 0; !signal.aborted; ) {
    const startedAt = performance.now()
    try {
      await worker.run(app, loop)
      if (!signal.aborted) throw new TabibError('BUG', `the loop ${loop.name} ended by itself`)
    } catch (error) {
      failures = performance.now() - startedAt > LONGEST_BACK_OFF_MS ? 1 : failures + 1
      loop.failed(error)
      await nap(backOffMs(failures), signal)
    }
  }
}

/**
 * Makes a scheduled worker's passes, one at a time on all hosts. The scheduler says when; a timer stands by and makes
 * the pass that nobody else has begun in time.
 */
async function runSchedule(
  site: Site,
  worker: ScheduledWorker,
  scheduler: Scheduler | undefined,
): Promise<void> {
  const { state, signal, log } = site
  const { everyMs } = worker.cadence
  let running: Promise<Attempt> | undefined
  let failures = 0
  // A pass that overruns its cadence is waited for and not started twice.
  const attempt = (notWithinMs: number): Promise<Attempt> => {
    running ??= passAlone(site, worker, notWithinMs).finally(() => {
      running = undefined
    })
    return running
  }
  const standBy = async (): Promise<number> => {
    const patienceMs = everyMs + (scheduler?.connected ? Math.min(everyMs / 2, LONGEST_PATIENCE_MS) : 0)
    try {
      const outcome = await attempt(patienceMs)
      failures = 0
      return outcome.kind === 'fresh' ? patienceMs - outcome.sinceMs : patienceMs
    } catch {
      failures += 1
      const waitMs = Math.min(everyMs, backOffMs(failures))
      state.nextPassAt = performance.now() + waitMs
      return waitMs
    }
  }
  const schedule = await scheduler?.every(worker.name, everyMs, async () => {
    // A burst of jobs that fell due while nobody worked is one pass.
    if (!signal.aborted) await attempt(everyMs / 2)
  })
  const ensuring = keepScheduled(schedule, log)
  while (!signal.aborted) await nap(Math.max(SHORTEST_NAP_MS, await standBy()), signal)
  clearInterval(ensuring)
  await running?.catch(() => {})
  await schedule?.close().catch(() => {})
}

function keepScheduled(schedule: Schedule | undefined, log: App['log']): NodeJS.Timeout | undefined {
  if (!schedule) return undefined
  const ensure = () => {
    schedule.ensure().catch((error: unknown) => {
      log.warn({ error: errorText(error) }, 'the schedule could not be put into Redis')
    })
  }
  ensure()
  return setInterval(ensure, BEAT_EVERY_MS)
}

type Attempt = Exclude<PassLease, { kind: 'held' }> | { kind: 'passed'; result: WorkerResult }

/** One pass under the lease, recorded; throws what the pass threw. */
async function passAlone(site: Site, worker: ScheduledWorker, notWithinMs: number): Promise<Attempt> {
  const { app, instance, state } = site
  const loop = site.loop(worker.name)
  const held = { name: worker.name, holder: instance.id, ttlMs: LEASE_TTL_MS }
  try {
    const lease = await acquirePassLease(app, { ...held, notWithinMs })
    if (lease.kind !== 'held') {
      const sinceMs = lease.kind === 'fresh' ? lease.sinceMs : 0
      state.nextPassAt = performance.now() + Math.max(0, worker.cadence.everyMs - sinceMs)
      return lease
    }
  } catch (error) {
    loop.failed(error)
    throw error
  }
  state.passStartedAt = performance.now()
  state.nextPassAt = state.passStartedAt + worker.cadence.everyMs
  state.passing = true
  const given = leaseKeeper(site, worker, held)
  try {
    await site.beat()
    const result = await worker.pass(app, AbortSignal.any([site.signal, given.signal]))
    loop.passed(result)
    return { kind: 'passed', result }
  } catch (error) {
    loop.failed(error)
    throw error
  } finally {
    given.stop()
    state.passing = false
    // Before the lease is free, so that the next holder sees when this pass began and how it ended.
    await site.beat()
    await releasePassLease(app, held).catch(() => {})
  }
}

/** Renews a pass's lease until its time is up: a pass that hangs here must not keep every other host from working. */
function leaseKeeper(
  { app, state, log }: Site,
  worker: ScheduledWorker,
  held: { name: string; holder: string; ttlMs: number },
): { signal: AbortSignal; stop(): void } {
  const abort = new AbortController()
  const limitMs = worker.cadence.limitMs ?? PASS_LIMIT_MS
  const keep = async () => {
    const tookMs = performance.now() - (state.passStartedAt ?? 0)
    if (tookMs > limitMs) {
      abort.abort(new TabibError('TIMED_OUT', `the pass was not done after ${limitMs / 1_000} s`))
      clearInterval(timer)
    } else if (!(await renewPassLease(app, held))) {
      abort.abort(new TabibError('LOCKED', 'another process took the pass over'))
    }
  }
  const timer = setInterval(() => {
    keep().catch((error: unknown) => log.warn({ error: errorText(error) }, 'the lease could not be renewed'))
  }, held.ttlMs / 3)
  return { signal: abort.signal, stop: () => clearInterval(timer) }
}

function isContinuous(worker: Worker): worker is ContinuousWorker {
  return 'loops' in worker.cadence
}

function isAlive(worker: Worker, state: WorkerState): boolean {
  const now = performance.now()
  if (isContinuous(worker)) {
    const { loops, aliveWithinMs } = worker.cadence
    return loops.every((name) => now - (state.heardAt.get(name) ?? 0) <= aliveWithinMs)
  }
  const limitMs = worker.cadence.limitMs ?? PASS_LIMIT_MS
  return state.passing
    ? now - (state.passStartedAt ?? now) <= limitMs
    : now - (state.nextPassAt ?? now) <= OVERDUE_LIMIT_MS
}

function heartbeatOf(worker: Worker, state: WorkerState, alive: boolean): Heartbeat {
  const now = performance.now()
  const ago = (at: number | undefined) => (at === undefined ? null : (now - at) / 1_000)
  const nextIn = state.nextPassAt === undefined ? null : Math.max(0, state.nextPassAt - now) / 1_000
  return {
    name: worker.name,
    alive,
    expectedEveryS: EXPECTED_EVERY_S,
    passStartedAgoS: ago(state.passStartedAt),
    lastPassAgoS: ago(state.lastPassAt),
    nextPassInS: nextIn,
    lastResult: lastResultOf(worker, state),
    lastError:
      state.errors.size === 0 ? null : [...state.errors].map(([name, text]) => `${name}: ${text}`).join('; '),
    passes: state.passes,
    failures: state.failures,
  }
}

// One round of a loop says little: its counts are shown summed up.
function lastResultOf(worker: Worker, state: WorkerState): WorkerResult | null {
  if (state.results.size === 0) return null
  if (!isContinuous(worker)) return state.results.get(worker.name) ?? null
  return Object.fromEntries(
    [...state.results].map(([name, result]) => [name, { ...result, ...state.totals.get(name) }]),
  )
}

function addCounts(totals: WorkerState['totals'], name: string, result: WorkerResult): void {
  const sums = totals.get(name) ?? {}
  totals.set(name, sums)
  for (const [what, value] of Object.entries(result)) {
    if (typeof value === 'number') sums[what] = (sums[what] ?? 0) + value
  }
}

// The words of an error that is not ours may quote a row or a payload, so it is named and not quoted.
function errorText(error: unknown): string {
  if (error instanceof TabibError) return redactUrls(error.message)
  if (!(error instanceof Error)) return 'unknown error'
  const code = (error as { code?: unknown }).code
  const place = /\n\s+at (.+)/.exec(error.stack ?? '')?.[1]
  return [error.name, typeof code === 'string' ? code : undefined, place && `at ${place}`]
    .filter(Boolean)
    .join(' ')
}

const backOffMs = (failures: number): number => {
  const ceiling = Math.min(LONGEST_BACK_OFF_MS, SHORTEST_BACK_OFF_MS * 2 ** Math.min(failures, 10))
  return SHORTEST_BACK_OFF_MS + Math.random() * (ceiling - SHORTEST_BACK_OFF_MS)
}

async function nap(ms: number, signal: AbortSignal): Promise<void> {
  await delay(ms, undefined, { signal }).catch(() => {})
}
