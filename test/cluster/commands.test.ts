import { randomUUID } from 'node:crypto'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { dirname, join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { openEtcd } from '../../src/adapters/etcd/client.ts'
import { openPatroni } from '../../src/adapters/patroni/client.ts'
import { verifyAudit } from '../../src/domain/audit/verify.ts'
import { diagnose } from '../../src/domain/cluster/judge.ts'
import { planLead } from '../../src/domain/cluster/lead.ts'
import { observeCluster } from '../../src/domain/cluster/observe.ts'
import { readDegraded } from '../../src/domain/messaging/read-degraded.ts'
import { MESSAGE_PATH, requestMessage } from '../../src/domain/messaging/request-message.ts'
import { openRelay } from '../../src/domain/outbox/relay.ts'
import { outboxSource } from '../../src/domain/outbox/source.ts'
import { CHARGE_PATH } from '../../src/domain/payments/charge.ts'
import { issueServiceToken } from '../../src/domain/sessions/caller.ts'
import { type PatroniServer, startPatroni } from '../../src/sandbox/servers/patroni.ts'
import type { Visit } from '../../src/sandbox/visit.ts'
import { createWorld, type World } from '../../src/sandbox/world.ts'
import { runJson } from '../support/line.ts'

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
  const { exitCode, envelope } = await runJson(argv, { ...world.env, ...env })
  return { exitCode, ...(envelope as Envelope) }
}
const confirmed = ['--confirm', 'main', '--reason', 'test']

describe('what cannot be done is refused, and nothing is done', () => {
  afterEach(async () => expect((await cluster.synchronised()).leader.name).toBe('n1'))

  test('a member that is none', async () => {
    const { exitCode, error } = await tabib(['cluster', 'switchover', '--candidate', 'n9', ...confirmed])
    expect([exitCode, error]).toMatchObject([
      2,
      { code: 'NOT_FOUND', message: 'main has no member "n9"; it has n1, n2, n3' },
    ])
  })

  test('a failover while somebody leads', async () => {
    const state = await observeCluster(world.app)
    expect(() => planLead(state, { kind: 'failover', candidate: 'n2' })).toThrow('n1 leads and answers')
  })

  test.each([
    ['is dead', undefined, 'ECONNREFUSED'],
    ['tells something else than Patroni would', '<html>200 OK</html>', 'not Patroni’s answer (no JSON)'],
    ['tells JSON of another shape', '{"members": "n1"}', 'not Patroni’s answer (members'],
    ['never ends its answer', 'silence', 'no answer within 2000 ms'],
  ])('an endpoint that %s', async (_, body, words) => {
    await using liar = body === undefined ? undefined : await serving(() => body)
    const asked = observeCluster(readerOf({ patroni: [liar?.url ?? 'http://127.0.0.1:6'] }))
    await expect(asked).rejects.toMatchObject({
      code: 'PATRONI_UNREACHABLE',
      message: expect.stringContaining(words),
    })
  })

  test('an endpoint that says it leads', async () => {
    const own = (await (await fetch(`${cluster.urls[1]}/patroni`)).json()) as object
    await using liar = await serving((path) =>
      JSON.stringify(
        path === '/cluster'
          ? {
              members: ['n2', 'n3'].map((name) => ({
                ...{ name, role: name === 'n2' ? 'leader' : 'replica', state: 'running' },
                ...{
                  api_url: `${liar.url}/patroni`,
                  host: '127.0.0.1',
                  port: cluster.members[1]!.postgresPort,
                },
              })),
            }
          : path === '/patroni'
            ? { ...own, role: 'master', xlog: { location: 1 } }
            : {},
      ),
    )
    // With the database at hand its Postgres is asked, which is a replica; without, the store names another.
    expect(diagnose(await observeCluster(readerOf({ patroni: [liar.url] }))).leader).toBeUndefined()
    const blind = readerOf({ patroni: [liar.url] })
    const state = await observeCluster({ ...blind, config: { ...blind.config, databaseUrl: undefined } })
    expect(() => planLead(state, { kind: 'switchover', candidate: undefined })).toThrow(
      /both|the store names n1/,
    )
    expect(() => planLead(state, { kind: 'failover', candidate: undefined })).toThrow(
      /both|the store names n1/,
    )
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

  test('without the credentials and the certificate that Patroni and etcd want', {
    timeout: 60_000,
  }, async () => {
    await using guarded = await startPatroni({
      scope: 'guarded',
      members: [{ name: 'a' }],
      restCredentials: 'operator:secret',
      tls: true,
    })
    const { urls, etcd, tls } = guarded
    const reader = (given: object) => readerOf({ patroni: urls, etcd: [etcd.url], ...given })
    await expect(observeCluster(reader({}))).rejects.toMatchObject({ code: 'PATRONI_UNREACHABLE' })
    // Whoever believes the authority and shows nothing is refused as well.
    const anonymous = reader({ tls: { ca: tls!.ca } })
    await expect(observeCluster(anonymous)).rejects.toMatchObject({ code: 'PATRONI_UNREACHABLE' })
    const seen = await observeCluster(reader({ tls }))
    expect(seen).toMatchObject({ unlisted: [], store: { read: true, value: { leader: 'a' } } })
    expect(diagnose(seen)).toMatchObject({ verdict: 'led', leader: 'a' })
    const lost = await observeCluster(reader({ tls, etcdTls: { ca: tls!.ca } }))
    expect(lost.store).toMatchObject({ read: false, error: { code: 'ETCD_UNREACHABLE' } })

    const [a] = guarded.members
    const secured = world.app.fetch(undefined, tls)
    const lead = (credentials?: string) =>
      openPatroni({ urls, fetch: secured, credentials }).lead({ name: 'b', apiUrl: a!.url }, { leader: 'a' })
    await expect(lead()).rejects.toMatchObject({ code: 'NOT_AUTHORISED' })
    await expect(lead('operator:wrong')).rejects.toMatchObject({ code: 'NOT_AUTHORISED' })
    // Heard, and refused for want of another member.
    await expect(lead('operator:secret')).rejects.toMatchObject({ code: 'CLUSTER_REFUSED' })
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
  expect(await verifyAudit(world.app)).toMatchObject({ findings: [] })
  expect(await etcd.read('/tabib/lead/service/main/begun/')).toEqual(new Map())
})

test('nothing is published, and nothing acknowledged, that no standby has: a failover would take it back', {
  timeout: 60_000,
}, async () => {
  const { leader } = await cluster.synchronised()
  const others = cluster.members.filter((one) => one !== leader)
  const tenantId = await world.tenant()
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

    const asked = { patientId: randomUUID(), channel: 'sms', template: 'reminder' }
    const call = {
      ...{ service: 'communication' as const, tenantId, route: `POST ${MESSAGE_PATH}` },
      ...{ key: randomUUID(), fingerprint: Buffer.alloc(32) },
    }
    const commits = () =>
      world.db.query<{ pid: number }>(
        `select pid from pg_stat_activity where wait_event = 'SyncRep' and query = 'commit'`,
      )
    const send = () =>
      requestMessage(
        { db: world.db, erasureSecret: world.app.erasureSecret, preflight: undefined },
        call,
        asked,
      )
    const first = send().catch((error: unknown) => error)
    await expect.poll(commits, { timeout: 10_000 }).toHaveLength(1)
    await world.db.query('select pg_cancel_backend($1)', [(await commits())[0]!.pid])
    expect(await first).toMatchObject({ code: 'NOT_REPLICATED' })
    // Its key is there and found, and the same request waits as the first did.
    const again = send()
    await expect.poll(commits, { timeout: 10_000 }).toHaveLength(1)
    for (const one of others) await one.resumeNode()
    expect(await again).toMatchObject({ status: 201, replayed: true })
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
  await world.configure({
    outbox: { preflight: { folder: join(dirname(world.env.TABIB_CONFIG!), 'preflight') } },
  })
  const visit = await world.visit()
  const { tenantId } = visit
  const { token } = await issueServiceToken(world.app, {
    ...{ service: 'scheduling', tenantId, audience: 'communication', lifetimeS: 300 },
  })
  let api = await openApi(visit, token)
  const sent = [await api.send(201)]
  const killed = await cluster.strand()

  const before = await tabib(['cluster', 'diagnose'])
  expect([before.exitCode, before.result]).toMatchObject([1, { verdict: 'leaderless' }])
  expect(before.result.findings.map(({ id }) => id)).toContain('cluster/sync-names-nobody')
  // Meanwhile a replica is read, which says as of when it is.
  const read = await readDegraded(world.app, (db) =>
    db.query<{ replica: boolean }>('select pg_is_in_recovery() as replica'),
  )
  expect(read).toMatchObject({ found: [{ replica: true }], asOf: expect.any(Date) })
  sent.push(await api.send(202))
  // What cannot wait is refused, to be asked for again; the metrics count both.
  const charged = await api.charge()
  expect([charged.status, charged.headers.get('retry-after')]).toEqual([503, '5'])
  const counted = await (await fetch(`${api.url}/metrics`)).text()
  expect(counted).toContain(
    'tabib_api_answers_total{method="POST",route="/api/v1/billing/charges",status="503"} 1',
  )
  const seen = await api.read(sent[0]!)
  expect(seen).toMatchObject({ status: 200, body: { id: sent[0], asOf: expect.any(String) } })
  expect(Number(seen.age)).toBeGreaterThanOrEqual(0)
  // One that is killed and started again while nobody leads accepts as well: it has kept the keys of who sends.
  await api.kill()
  api = await openApi(visit, token)
  sent.push(await api.send(202))
  const ready = (await (await fetch(`${api.url}/readyz`)).json()) as { degraded: object }
  expect(ready).toMatchObject({ ready: true, degraded: { postgres: expect.stringContaining('preflight') } })

  const argv = before.result.command.replace('"<why>"', 'test').split(' ').slice(1)

  const done = await tabib(argv)
  expect(done.error).toBeUndefined()
  expect([done.exitCode, done.result]).toMatchObject([0, { leader: argv[3], amiss: [] }])
  expect(done.result.writableAfterMs).toBeGreaterThan(0)
  const etcd = openEtcd({ urls: [cluster.etcd.url], fetch })
  expect(await etcd.read('/tabib/lead/service/main/begun/')).toEqual(new Map())
  expect(await world.produce('billing', { count: 1 })).toHaveLength(1)

  const messages = () =>
    world.db.query<{ id: string }>(
      'select aggregate_id as id from communication.outbox where tenant_id = $1 order by seq',
      [tenantId],
    )
  await expect.poll(messages, { timeout: 10_000 }).toEqual(sent.map((id) => ({ id })))
  await api.kill()

  // The one that died comes back as a replica, rewound if it must be.
  await killed.restart()
  await cluster.synchronised()
  expect(diagnose(await observeCluster(world.app))).toMatchObject({ leader: argv[3], verdict: 'led' })
})

/** The API in a process of its own, and who sends messages and charges through it. */
async function openApi(visit: Visit, token: string) {
  const api = await world.startApi()
  const ask = (path: string, bearer: string, body?: object) =>
    fetch(`${api.url}${path}`, {
      method: body ? 'POST' : 'GET',
      headers: {
        authorization: `Bearer ${bearer}`,
        ...(body && { 'content-type': 'application/json', 'idempotency-key': randomUUID() }),
      },
      ...(body && { body: JSON.stringify(body) }),
    })
  return {
    url: api.url,
    async send(status: number): Promise<string> {
      const message = { patientId: randomUUID(), channel: 'sms', template: 'appointment-reminder' }
      const response = await ask(MESSAGE_PATH, token, message)
      expect(response.status).toBe(status)
      return ((await response.json()) as { id: string }).id
    },
    async read(id: string) {
      const response = await ask(`${MESSAGE_PATH}/${id}`, token)
      return { status: response.status, age: response.headers.get('age'), body: await response.json() }
    },
    charge: () => ask(CHARGE_PATH, visit.billingToken, { patientId: randomUUID(), code: 'CONSULT-REMOTE' }),
    async kill() {
      api.signal('SIGKILL')
      await api.exited
    },
  }
}

/** The world's cluster as another configuration names it. */
const readerOf = (given: object) => {
  const { config, fetch } = world.app
  return { fetch, config: { ...config, cluster: { ...config.cluster!, ...given } } }
}

async function serving(body: (path: string) => string): Promise<{ url: string } & AsyncDisposable> {
  const server = createServer(({ url }, response) => {
    const text = body(url!)
    if (text !== 'silence') response.end(text)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async [Symbol.asyncDispose]() {
      server.close().closeAllConnections()
    },
  }
}
