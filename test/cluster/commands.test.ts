import { randomUUID } from 'node:crypto'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openEtcd } from '../../src/adapters/etcd/client.ts'
import { openPatroni } from '../../src/adapters/patroni/client.ts'
import { readDegraded } from '../../src/domain/messaging/read-degraded.ts'
import { openRelay } from '../../src/domain/outbox/relay.ts'
import { outboxSource } from '../../src/domain/outbox/source.ts'
import { type PatroniServer, startPatroni } from '../../src/sandbox/servers/patroni.ts'
import { createWorld, type World } from '../../src/sandbox/world.ts'

let world: World
let cluster: PatroniServer

beforeAll(async () => {
  world = await createWorld({ cluster: true })
  cluster = world.cluster!
}, 60_000)
afterAll(() => world[Symbol.asyncDispose]())

interface Envelope {
  result: {
    command: string
    findings: { id: string }[]
    replicas: string[]
    writableAfterMs: number
    clients: { seen: number; missing: string[] }
    outboxes: object[]
  }
  error?: { code: string; message: string }
}
const tabib = async (argv: string[], env: Record<string, string> = {}) => {
  await using run = world.spawn([...argv, '--json'], { env })
  const exitCode = await run.exited
  return { exitCode, ...(JSON.parse(run.stdout()) as Envelope) }
}
const confirmed = ['--confirm', 'main', '--reason', 'test']

describe('what cannot be done is refused, and nothing is done', () => {
  test.each([
    ['a member that is none', ['switchover', '--candidate', 'n9', ...confirmed], {}, 2, 'NOT_FOUND'],
    ['a failover while somebody leads', ['failover', ...confirmed], {}, 5, 'NOT_NEEDED'],
    ['without the name typed', ['switchover', '--reason', 'test'], {}, 5, 'CONFIRMATION_REQUIRED'],
    ['a dead endpoint', ['status'], { TABIB_PATRONI_URL: 'http://127.0.0.1:9' }, 3, 'PATRONI_UNREACHABLE'],
    ['a plan of another day', ['switchover', '--apply', 'f'.repeat(64), ...confirmed], {}, 6, 'PLAN_STALE'],
  ])('%s', async (_, argv, env, exit, code) => {
    const { exitCode, error } = await tabib(['cluster', ...argv], env)
    expect([exitCode, error?.code]).toEqual([exit, code])
    expect((await cluster.synchronised()).leader.name).toBe('n1')
  })

  test('an endpoint that tells something else than Patroni would', async () => {
    await using liar = await serving('<html>200 OK</html>')
    const { exitCode, error } = await tabib(['cluster', 'diagnose'], { TABIB_PATRONI_URL: liar.url })
    expect(exitCode).toBe(3)
    expect(error?.message).toContain('not Patroni’s answer (no JSON)')
  })

  test('a second operator, who is told who is at it', async () => {
    const etcd = openEtcd({ urls: [cluster.etcd.url], fetch })
    await using _held = await etcd.claim('/tabib/lead/service/main/claim', 'maryam, run 7, switchover', {
      ttlS: 60,
    })
    const { exitCode, error } = await tabib(['cluster', 'switchover', ...confirmed])
    expect([exitCode, error]).toMatchObject([
      5,
      { code: 'LOCKED', message: 'main is taken: maryam, run 7, switchover' },
    ])
  })

  test('without the credentials that Patroni wants', { timeout: 30_000 }, async () => {
    await using guarded = await startPatroni({
      scope: 'guarded',
      members: [{ name: 'a' }, { name: 'b' }],
      restCredentials: 'operator:secret',
    })
    const [a, b] = guarded.members
    const lead = (credentials?: string) =>
      openPatroni({ urls: guarded.urls, fetch, credentials }).lead(
        { name: 'b', apiUrl: b!.url },
        { leader: 'a' },
      )
    await expect(lead()).rejects.toMatchObject({ code: 'NOT_AUTHORISED' })
    await expect(lead('operator:wrong')).rejects.toMatchObject({ code: 'NOT_AUTHORISED' })
    expect((await openPatroni({ urls: [a!.url], fetch }).node(a!.url)).role).toBe('primary')
    expect(await lead('operator:secret')).toMatch(/switched over/)
  })
})

test('a switchover: the standby leads, the old leader follows, and the trail has it', {
  timeout: 60_000,
}, async () => {
  const { leader, standby } = await cluster.synchronised()
  await using relay = await world.startWorkers(['outbox-relay'])
  await world.produce('billing', { count: 3 })
  // Somebody's failover took place, and its process died before the trail could have it.
  const died = randomUUID()
  const etcd = openEtcd({ urls: [cluster.etcd.url], fetch })
  const operation = {
    ...{ runId: died, actor: 'maryam', context: 'env', command: 'cluster failover', argsRedacted: [] },
    ...{ targets: ['cluster:main'], reason: 'n1 burnt', version: '0' },
  }
  await etcd.put(
    `/tabib/lead/service/main/begun/${died}`,
    JSON.stringify({ at: new Date(Date.now() - 3_600_000).toISOString(), operation }),
  )
  const { exitCode, result } = await tabib(['cluster', 'switchover', ...confirmed])
  expect([exitCode, result]).toMatchObject([0, { leader: standby.name, amiss: [], clients: { missing: [] } }])
  expect(result.clients.seen).toBeGreaterThan(0)
  expect(result.outboxes).toMatchObject(Array(3).fill({ relayed: true, ghosts: [] }))
  relay.signal('SIGTERM')
  await relay.exited
  expect(result.replicas).toContain(leader.name)
  // Through the same pool as before: it has found the new leader.
  const [last] = await world.db.query(
    `select record ->> 'command' as command, record ->> 'outcome' as outcome from tabib.audit order by seq desc limit 1`,
  )
  expect(last).toEqual({ command: 'cluster failover', outcome: 'failed' })
  const trail = await world.db.query<{ record: object }>('select record from tabib.audit where run_id = $1', [
    died,
  ])
  expect(trail.map(({ record }) => record)).toMatchObject([
    { phase: 'before', actor: 'maryam', reason: 'n1 burnt' },
    { phase: 'after', errorCode: 'INTERRUPTED', journal: { record: expect.any(String) } },
  ])
  expect((await tabib(['audit', 'verify'])).exitCode).toBe(0)
  expect(await etcd.read('/tabib/lead/service/main/begun/')).toEqual(new Map())
})

test('nothing is published that no standby has: a failover would take it back', {
  timeout: 60_000,
}, async () => {
  const { leader } = await cluster.synchronised()
  const others = cluster.members.filter((one) => one !== leader)
  await using relay = openRelay(
    { db: world.db, nats: world.app.nats },
    { source: outboxSource('billing'), holder: 'test', poison: 'hold', leaseTtlMs: 60_000 },
  )
  await relay.pass()
  const published = async () => (await world.app.nats.stream('billing-evt'))?.state.messages
  const before = await published()
  for (const one of others) await one.pauseNode()
  try {
    await world.service.transaction(async (tx) => {
      // Acknowledged to a producer that does not wait, and visible at once.
      await tx.query(`select set_config('synchronous_commit', 'local', true)`)
      await tx.query(
        `insert into billing.outbox (tenant_id, aggregate_type, aggregate_id, type, data)
         values (gen_random_uuid(), 'rehearsal', '1', 'recorded', '{}')`,
      )
    })
    const passing = relay.pass()
    const waiting = () => world.db.query(`select from pg_stat_activity where wait_event = 'SyncRep'`)
    await expect.poll(waiting, { timeout: 10_000 }).not.toEqual([])
    expect(await published()).toBe(before)
    for (const one of others) await one.resumeNode()
    await passing
    await relay.pass()
    expect(await published()).toBe(before! + 1)
  } finally {
    for (const one of others) await one.resumeNode()
  }
  await cluster.synchronised()
})

test('a leader that dies right after a switchover: diagnosed, and brought back by the command that is printed', {
  timeout: 120_000,
}, async () => {
  const { leader, standby } = await cluster.synchronised()
  await openPatroni({ urls: cluster.urls, fetch }).lead(
    { name: standby.name, apiUrl: standby.url },
    { leader: leader.name },
  )
  await standby.killNode()

  const before = await tabib(['cluster', 'diagnose'])
  expect([before.exitCode, before.result]).toMatchObject([1, { verdict: 'leaderless' }])
  expect(before.result.findings.map(({ id }) => id)).toContain('cluster/sync-names-nobody')
  // Meanwhile a replica is read, which says as of when it is.
  const read = await readDegraded(world.app, (db) =>
    db.query<{ replica: boolean }>('select pg_is_in_recovery() as replica'),
  )
  expect(read).toMatchObject({ found: [{ replica: true }], asOf: expect.any(Date) })
  const argv = before.result.command.replace('"<why>"', 'test').split(' ').slice(1)

  const done = await tabib(argv)
  expect(done.error).toBeUndefined()
  expect([done.exitCode, done.result]).toMatchObject([0, { leader: argv[3], amiss: [] }])
  expect(done.result.writableAfterMs).toBeGreaterThan(0)
  const etcd = openEtcd({ urls: [cluster.etcd.url], fetch })
  expect(await etcd.read('/tabib/lead/service/main/begun/')).toEqual(new Map())
  expect(await world.produce('billing', { count: 1 })).toHaveLength(1)

  // The one that died comes back as a replica, rewound if it must be.
  await standby.restart()
  await cluster.synchronised()
  const after = await tabib(['cluster', 'status'])
  expect(after.result).toMatchObject({ leader: argv[3], verdict: 'led' })
})

async function serving(body: string): Promise<{ url: string } & AsyncDisposable> {
  const server = createServer((_, response) => response.end(body))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    [Symbol.asyncDispose]: () => new Promise((resolve) => server.close(() => resolve())),
  }
}
