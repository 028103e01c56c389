import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openEtcd } from '../../src/adapters/etcd/client.ts'
import { openPatroni } from '../../src/adapters/patroni/client.ts'
import { openDatabase } from '../../src/adapters/postgres/client.ts'
import { diagnose } from '../../src/domain/cluster/judge.ts'
import { type ClusterReader, memberUrl, observeCluster } from '../../src/domain/cluster/observe.ts'
import { type PatroniServer, startPatroni } from '../../src/sandbox/servers/patroni.ts'

let cluster: PatroniServer
beforeAll(async () => {
  cluster = await startPatroni({ scope: 'main', members: [{ name: 'n1' }, { name: 'n 2' }] })
}, 60_000)
afterAll(() => cluster[Symbol.asyncDispose]())

const reader = (namespace = '/service'): ClusterReader => ({
  config: {
    cluster: { patroni: cluster.urls, etcd: [cluster.etcd.url], namespace },
    databaseUrl: undefined,
    residency: undefined,
  },
  fetch: () => fetch,
})

test('a namespace is found however its slashes are written; one that holds nothing is told', async () => {
  expect((await observeCluster(reader('/service//'))).store).toMatchObject({
    read: true,
    value: { leader: 'n1' },
  })
  expect((await observeCluster(reader('/other'))).store).toMatchObject({
    read: false,
    error: { code: 'CONFIG_INVALID', message: expect.stringContaining('holds nothing below /other/main/') },
  })
})

test('a login is wrong where every host refuses it; where one is down, nobody who leads was asked', {
  timeout: 30_000,
}, async () => {
  const asked = async (hosts: string) => {
    await using db = openDatabase({ url: `postgres://nobody:x@${hosts}/postgres`, connectTimeoutMs: 500 })
    return db.query('select 1')
  }
  await expect(asked(cluster.hosts)).rejects.toMatchObject({ code: 'NOT_AUTHORISED' })
  await expect(asked(`127.0.0.1:9,${cluster.hosts}`)).rejects.toMatchObject({ code: 'POSTGRES_UNREACHABLE' })
})

test('a store that hangs leaves no list of members: they tell of themselves, and the store is named', {
  timeout: 60_000,
}, async () => {
  await cluster.etcd.pause()
  try {
    await expect
      .poll(async () => diagnose(await observeCluster(reader())), { timeout: 40_000 })
      .toMatchObject({ verdict: 'leaderless', command: undefined })
    const state = await observeCluster(reader())
    expect(state.scope).toBe('main')
    expect(diagnose(state).findings.map(({ id }) => id)).toContain('cluster/store-no-majority')
  } finally {
    await cluster.etcd.resume()
  }
})

test.each([
  ['10.0.0.1', 5433, 'postgres://u@10.0.0.1:5433/d'],
  ['::1', undefined, 'postgres://u@[::1]:5432/d'],
  ['', undefined, undefined],
  ['/run/postgresql', undefined, undefined],
])('the Postgres of a member at "%s"', (host, port, url) => {
  expect(memberUrl('postgres://u@a,b:5433/d?target_session_attrs=read-write', { host, port })).toBe(url)
})

test('what Patroni says in the words of other versions and of those who edit them', async () => {
  await using server = await answering({
    '/config': {
      ttl: '20',
      synchronous_mode: 'false',
      check_timeline: 'on',
      pause: null,
      standby_cluster: {},
    },
    '/patroni': {
      patroni: { scope: 'main' },
      state: 'running',
      role: 'replica',
      timeline: null,
      xlog: { received_location: null, replayed_location: 7 },
    },
  })
  const patroni = openPatroni({ urls: [server.url], fetch })
  expect(await patroni.settings()).toMatchObject({
    ttlS: 20,
    synchronous: false,
    checkTimeline: true,
    paused: false,
    standbyCluster: false,
  })
  expect(await patroni.node(server.url)).toMatchObject({ timeline: undefined, lsn: 7n })
  await expect(patroni.node('')).rejects.toMatchObject({ code: 'PATRONI_UNREACHABLE' })
})

test('an etcd that wants a user is not one without a majority', async () => {
  await using server = await answering(
    { '/v3/kv/range': { error: 'etcdserver: user name is empty', code: 3 } },
    400,
  )
  await expect(openEtcd({ urls: [server.url], fetch }).read('/service/main/')).rejects.toMatchObject({
    code: 'NOT_AUTHORISED',
  })
})

async function answering(bodies: Record<string, object>, status = 200) {
  const server = createServer(({ url }, response) =>
    response.writeHead(status).end(JSON.stringify(bodies[url!])),
  )
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    [Symbol.asyncDispose]: () => new Promise<void>((resolve) => server.close(() => resolve())),
  }
}
