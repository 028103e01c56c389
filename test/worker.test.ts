import { setTimeout as delay } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { createApp } from '../src/app.ts'
import { readStatus } from '../src/catalog/status.ts'
import workerStopped from '../src/catalog/tabib/worker-stopped.ts'
import { TabibError } from '../src/errors.ts'
import type { TabibProcess } from '../src/sandbox/world.ts'
import {
  type ContinuousWorker,
  runOnce,
  type ScheduledWorker,
  startWorkers,
  thisInstance,
  type Worker,
} from '../src/worker.ts'
import { workers } from '../src/workers/index.ts'
import { useWorld } from './support/world.ts'

const world = useWorld()

let instances = 0
/** Another process, as far as leases and heartbeats can tell. */
const anotherHost = () => {
  instances += 1
  return { ...thisInstance('test'), id: `host-${instances}`, host: `host-${instances}` }
}

/** Settles once `seen` is true; the test's own limit ends a wait in vain. */
async function until(seen: () => Promise<boolean> | boolean): Promise<void> {
  while (!(await seen())) await delay(20)
}

/** A promise that a test settles by hand. */
function gate(): { promise: Promise<void>; open: () => void } {
  let open = () => {}
  const promise = new Promise<void>((resolve) => {
    open = resolve
  })
  return { promise, open }
}

const scheduled = (name: string, everyMs: number, pass: ScheduledWorker['pass']): ScheduledWorker => ({
  name,
  describe: 'a worker of this test',
  cadence: { everyMs },
  needs: [],
  pass,
})

async function heartbeat(name: string) {
  const [row] = await world().db.query<{
    last_error: string | null
    stopped_at: Date | null
    beat_at: Date
    passes: bigint
    last_result: Record<string, unknown> | null
  }>('select * from tabib.worker_heartbeat where name = $1 order by beat_at desc limit 1', [name])
  return row
}

const published = async () => (await world().app.nats.stream('billing-evt'))?.state.messages ?? 0
const urlOf = async (process: TabibProcess) => {
  await until(() => /listening on \S+:\d+:/.test(process.stderr()))
  return /listening on (\S+:\d+):/.exec(process.stderr())?.[1] ?? ''
}
const statusOf = async (url: string) => (await fetch(url)).status

test('SIGTERM lets the pass under way end, and exits 0', async () => {
  const before = await published()
  await using relay = await world().startWorkers(['outbox-relay', 'pager'])
  await world().produce('billing', { count: 50 })
  await until(async () => (await published()) === before + 50)
  relay.signal('SIGTERM')
  expect(await relay.exited).toBe(0)
  expect((await heartbeat('outbox-relay'))?.stopped_at).not.toBeNull()
  const [lease] = await world().db.query<{ released: boolean }>(
    `select released from tabib.outbox_lease where service = 'billing'`,
  )
  expect(lease?.released).toBe(true)
})

test('a second signal ends a process that cannot drain, exit 130', async () => {
  await using process = await world().startWorkers(['outbox-relay'])
  // Without Postgres the lease cannot be given back at once.
  await world().postgres.pause()
  process.signal('SIGINT')
  await until(() => process.stderr().includes('draining'))
  process.signal('SIGINT')
  expect(await process.exited).toBe(130)
  await world().postgres.resume()
})

test('--timeout drains and exits 8', async () => {
  await using process = world().spawn(['worker', 'run', 'pager', '--timeout', '2s'])
  expect(await process.exited).toBe(8)
  expect((await heartbeat('pager'))?.stopped_at).not.toBeNull()
})

test('a pass that overruns its cadence is not started twice', async () => {
  const finish = gate()
  let started = 0
  const slow = scheduled('overrun', 100, async () => {
    started += 1
    await finish.promise
    return {}
  })
  const [one, other] = [anotherHost(), anotherHost()].map((host) => startWorkers(world().app, [slow], host))
  await until(() => started === 1)
  // Ten cadences of a worker beside it go by.
  let beside = 0
  const metronome = startWorkers(
    world().app,
    [
      scheduled('metronome', 100, async () => {
        beside += 1
        return {}
      }),
    ],
    anotherHost(),
  )
  await until(() => beside >= 10)
  expect(started).toBe(1)
  finish.open()
  await Promise.all([one, other, metronome].map((fleet) => fleet?.drain(5_000)))
})

test('one host makes a pass and another, asked at the same time, skips it and says who is at it', async () => {
  const finish = gate()
  const begun = gate()
  const slow = scheduled('single-flight', 60_000, async () => {
    begun.open()
    await finish.promise
    return { done: 1 }
  })
  const [holder, asking] = [anotherHost(), anotherHost()]
  const { signal } = new AbortController()
  const first = runOnce(world().app, slow, holder, signal)
  await begun.promise
  expect(await runOnce(world().app, slow, asking, signal)).toEqual({ skipped: holder.id })
  finish.open()
  expect(await first).toEqual({ done: 1 })
})

test('a pass of a host that died is taken over once its lease has run out', async () => {
  await world().db.query(
    `insert into tabib.worker_lease (name, holder, expires_at) values ('orphaned', 'a dead host', now() - interval '1 s')`,
  )
  const orphaned = scheduled('orphaned', 60_000, async () => ({ done: 1 }))
  const { signal } = new AbortController()
  expect(await runOnce(world().app, orphaned, anotherHost(), signal)).toEqual({ done: 1 })
})

test('a pass that fails is recorded, and the next success clears it', async () => {
  let attempts = 0
  const flaky = scheduled('flaky', 100, async () => {
    attempts += 1
    if (attempts === 1) throw new TabibError('NATS_UNREACHABLE', 'NATS is away')
    return { attempts }
  })
  const fleet = startWorkers(world().app, [flaky], anotherHost())
  await until(async () => (await heartbeat('flaky'))?.last_error === 'flaky: NATS is away')
  await until(async () => (await heartbeat('flaky'))?.last_error === null)
  expect(fleet.running[0]?.state.failures).toBe(1)
  await fleet.drain(5_000)
})

test('the words of an error that is not ours are not kept: they may quote a row', async () => {
  const leaky = scheduled('leaky', 60_000, async () => {
    throw new Error('Failing row contains (Zahra Ahmadi, +93 70 000 0000)')
  })
  const once = runOnce(world().app, leaky, anotherHost(), new AbortController().signal)
  await expect(once).rejects.toThrow('Failing row')
  expect((await heartbeat('leaky'))?.last_error).not.toContain('Zahra')
})

test('a loop that hangs stops the heartbeat, and /livez says which worker hangs', async () => {
  const hung: ContinuousWorker = {
    name: 'hung',
    describe: 'a worker of this test',
    cadence: { loops: ['only'], aliveWithinMs: 50 },
    needs: [],
    run: (_app, { signal }) => new Promise((resolve) => signal.addEventListener('abort', () => resolve())),
    once: async () => ({}),
  }
  const fleet = startWorkers(world().app, [hung], anotherHost())
  await until(async () => (await heartbeat('hung')) !== undefined)
  const beatAt = (await heartbeat('hung'))?.beat_at
  await until(() => fleet.running[0]?.alive() === false)
  const { serve } = await import('../src/api/server.ts')
  await using server = await serve(world().app, fleet, { host: '127.0.0.1', port: 0 })
  const livez = await fetch(`${server.url}/livez`)
  expect([livez.status, await livez.json()]).toEqual([503, { live: false, hanging: ['hung'] }])
  // What is written while it hangs tells all but that it lives.
  await fleet.drain(5_000)
  expect((await heartbeat('hung'))?.beat_at).toEqual(beatAt)
})

test('a loop that throws is started again, and the loops beside it go on', async () => {
  const starts = { frail: 0, firm: 0 }
  const pair: ContinuousWorker<'frail' | 'firm'> = {
    name: 'pair',
    describe: 'a worker of this test',
    cadence: { loops: ['frail', 'firm'], aliveWithinMs: 30_000 },
    needs: [],
    async run(_app, { name, signal, passed }) {
      starts[name] += 1
      if (name === 'frail' && starts.frail === 1) throw new TabibError('MIGRATION_REQUIRED', 'no stream')
      passed({ rounds: 1 })
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
    },
    once: async () => ({}),
  }
  const fleet = startWorkers(world().app, [pair], anotherHost())
  await until(() => starts.frail === 2)
  expect(starts.firm).toBe(1)
  await fleet.drain(5_000)
  expect(await heartbeat('pair')).toMatchObject({
    last_error: null,
    last_result: { frail: { rounds: 1 }, firm: { rounds: 1 } },
  })
})

test('while NATS is away the inbox says so and lives on', async () => {
  await using process = await world().startWorkers(['inbox'])
  const url = await urlOf(process)
  await until(async () => (await heartbeat('inbox'))?.last_result != null)
  await world().nats.kill()
  await until(async () => (await heartbeat('inbox'))?.last_error?.includes('NATS') ?? false)
  expect(await statusOf(`${url}/livez`)).toBe(200)
  await world().nats.restart()
  await until(async () => (await heartbeat('inbox'))?.last_error === null)
}, 90_000)

test('with Redis killed the relay goes on, scheduled workers keep their cadence, and both survive its return', async () => {
  const before = await published()
  await using process = await world().startWorkers(['outbox-relay', 'pager'])
  const url = await urlOf(process)
  const passes = async () => Number((await heartbeat('pager'))?.passes ?? 0)
  await until(async () => (await passes()) >= 1)
  await world().redis.kill()
  await world().produce('billing', { count: 20 })
  await until(async () => (await published()) === before + 20)
  const whenKilled = await passes()
  await until(async () => (await passes()) > whenKilled)
  expect(await statusOf(`${url}/readyz`)).toBe(200)
  await world().redis.restart()
  const whenBack = await passes()
  await until(async () => (await passes()) > whenBack)
  process.signal('SIGTERM')
  expect(await process.exited).toBe(0)
}, 60_000)

test('the schedule is put into Redis again after a flush', async () => {
  const redis = createApp(world().app.config).redis
  await redis.connect()
  const keys = async () => (await redis.keys('tabib:healing:repeat*')).length
  let passes = 0
  const healing = scheduled('healing', 200, async () => {
    passes += 1
    return {}
  })
  const fleet = startWorkers(world().app, [healing], anotherHost())
  await until(async () => (await keys()) > 0)
  await redis.flushall()
  await until(async () => (await keys()) > 0)
  const since = passes
  await until(() => passes > since + 2)
  await fleet.drain(5_000)
  redis.disconnect()
})

test('a relay killed with -9 is replaced by its standby', async () => {
  const before = await published()
  const leader = await world().startWorkers(['outbox-relay'])
  await using standby = await world().startWorkers(['outbox-relay'])
  const holder = async () => {
    const [lease] = await world().db.query<{ holder: string }>(
      `select holder from tabib.outbox_lease where service = 'billing' and not released`,
    )
    return lease?.holder ?? ''
  }
  await until(async () => (await holder()).includes(`:${leader.pid}:`))
  leader.signal('SIGKILL')
  await leader.exited
  await world().produce('billing', { count: 10 })
  await until(async () => (await published()) === before + 10)
  expect(await holder()).toContain(`:${standby.pid}:`)
})

test('/readyz says which server is away; /livez asks none; /metrics counts what was published and verified', async () => {
  await using process = await world().startWorkers(['outbox-relay', 'ledger-integrity'])
  const url = await urlOf(process)
  await until(async () => (await statusOf(`${url}/readyz`)) === 200)
  await world().produce('billing', { count: 5 })
  const shown = async (figure: RegExp) => figure.test(await (await fetch(`${url}/metrics`)).text())
  await until(() => shown(/tabib_outbox_published_total\{service="billing"\} [1-9]/))
  await until(() => shown(/billing_ledger_verification_findings [0-9]/))
  await world().nats.kill()
  await until(async () => (await statusOf(`${url}/readyz`)) === 503)
  const readyz = (await (await fetch(`${url}/readyz`)).json()) as { reasons: object }
  expect(Object.keys(readyz.reasons)).toEqual(['nats'])
  expect(await statusOf(`${url}/livez`)).toBe(200)
  await world().nats.restart()
  await until(async () => (await statusOf(`${url}/readyz`)) === 200)
}, 60_000)

test('started while Postgres is away a worker is live and not ready, and begins once it is back', async () => {
  await world().postgres.kill()
  await using process = world().spawn(['worker', 'run', 'outbox-relay'])
  const url = await urlOf(process)
  const readyz = (await (await fetch(`${url}/readyz`)).json()) as { reasons: object }
  expect(Object.keys(readyz.reasons)).toContain('postgres')
  expect(await statusOf(`${url}/livez`)).toBe(200)
  await world().postgres.restart()
  const before = await published()
  await world().produce('billing', { count: 1 })
  await until(async () => (await published()) === before + 1)
}, 60_000)

test('a worker that was killed fires tabib/worker-stopped, and one run by cron quiets it', async () => {
  await world().owner.query('delete from tabib.worker_heartbeat')
  const process = await world().startWorkers(['outbox-monitor'])
  process.signal('SIGKILL')
  await process.exited
  await world().db.query(`update tabib.worker_heartbeat set beat_at = beat_at - interval '1 hour'`)
  const verdict = async () => (await readStatus(world().app, [workerStopped]))[0]?.verdict
  expect(await verdict()).toBe('firing')
  await world().owner.query('delete from tabib.worker_lease')
  expect((await world().tabib(['worker', 'run', 'outbox-monitor', '--once'])).exitCode).toBe(0)
  expect(await verdict()).not.toBe('firing')
})

test('--once relays until nothing is left; with NATS away it exits 3, and an unknown worker exits 2', async () => {
  const before = await published()
  await world().produce('billing', { count: 5_000 })
  expect((await world().tabib(['worker', 'run', 'outbox-relay', '--once'])).exitCode).toBe(0)
  expect(await published()).toBe(before + 5_000)
  const unknown = await world().tabib(['worker', 'run', 'outbox-rely'])
  expect(unknown.exitCode).toBe(2)
  expect(JSON.stringify(unknown.envelope)).toContain('tabib worker run outbox-relay')
  await world().nats.kill()
  expect((await world().tabib(['worker', 'run', 'outbox-relay', '--once'])).exitCode).toBe(3)
  await world().nats.restart()
})

test('--once waits out a relay that died, and leaves one that lives to its work', async () => {
  const before = await published()
  const dead = await world().startWorkers(['outbox-relay'])
  await world().produce('billing', { count: 1 })
  await until(async () => (await published()) === before + 1)
  dead.signal('SIGKILL')
  await dead.exited
  await world().produce('billing', { count: 10 })
  await world().tabib(['worker', 'run', 'outbox-relay', '--once'])
  expect(await published()).toBe(before + 11)
  await using living = await world().startWorkers(['outbox-relay'])
  await world().produce('billing', { count: 1 })
  await until(async () => (await published()) === before + 12)
  const { envelope, exitCode } = await world().tabib(['worker', 'run', 'outbox-relay', '--once'])
  expect(exitCode).toBe(0)
  const { result } = envelope as { result: { 'outbox-relay': { billing: { skipped?: string } } } }
  expect(result['outbox-relay'].billing.skipped).toContain(`:${living.pid}:`)
})

test('worker list shows every worker: name, cadence, host, passes and state', async () => {
  await world().tabib(['worker', 'run', 'outbox-monitor', '--once'])
  const { envelope } = await world().tabib(['worker', 'list'])
  const rows = (envelope as { result: { name: string; state: string; lastPassAt: string | null }[] }).result
  expect(rows.map(({ name }) => name)).toEqual(expect.arrayContaining(workers.map((one: Worker) => one.name)))
  const monitor = rows.find(({ name }) => name === 'outbox-monitor')
  expect(monitor).toMatchObject({ state: 'stopped', cadence: 'every 15 s', lastPassAt: expect.any(String) })
})
