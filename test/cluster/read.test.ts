import { createServer } from 'node:http'
import { type AddressInfo, createServer as createTcpServer } from 'node:net'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { openEtcd } from '../../src/adapters/etcd/client.ts'
import { openPatroni } from '../../src/adapters/patroni/client.ts'
import { openDatabase } from '../../src/adapters/postgres/client.ts'
import { diagnose } from '../../src/domain/cluster/judge.ts'
import { askedMember, memberDatabase, observeMember } from '../../src/domain/cluster/lead.ts'
import { type ClusterReader, memberUrl, observeCluster } from '../../src/domain/cluster/observe.ts'
import { takesWrites } from '../../src/domain/cluster/writable.ts'
import { type PatroniServer, startPatroni } from '../../src/sandbox/servers/patroni.ts'

let cluster: PatroniServer
beforeAll(async () => {
  cluster = await startPatroni({
    scope: 'main',
    members: [{ name: 'n1' }, { name: 'n 2' }],
    proxied: true,
    diskMb: 250,
  })
}, 60_000)
afterAll(() => cluster[Symbol.asyncDispose]())

const reader = (namespace = '/service', databaseUrl?: string): ClusterReader => ({
  config: {
    cluster: { patroni: cluster.urls, etcd: [cluster.etcd.url], namespace },
    databaseUrl,
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
  timeout: 60_000,
}, async () => {
  const asked = async (hosts: string, connectTimeoutMs = 10_000) => {
    await using db = openDatabase({ url: `postgres://nobody:x@${hosts}/postgres`, connectTimeoutMs })
    return db.query('select 1')
  }
  await expect(asked(cluster.hosts)).rejects.toMatchObject({ code: 'NOT_AUTHORISED' })
  await expect(asked(`127.0.0.1:9,${cluster.hosts}`, 500)).rejects.toMatchObject({
    code: 'POSTGRES_UNREACHABLE',
  })
})

test.each([
  ['any', undefined],
  ['read-write', false],
  ['primary', false],
  ['read-only', true],
  ['standby', true],
])('a host is taken that is %s', { timeout: 60_000 }, async (attrs, replica) => {
  const url = cluster.adminUrl.replace(/$/, `?target_session_attrs=${attrs}`)
  await using db = openDatabase({ url })
  const [row] = await db.query<{ replica: boolean }>('select pg_is_in_recovery() as replica')
  expect(row?.replica).toBe(replica ?? row?.replica)
})

test('no password and no credentials go to a host that Patroni names and the configuration does not', {
  timeout: 60_000,
}, async () => {
  const heard: string[] = []
  await using trap = await listening('127.0.0.2', heard)
  const [n1, n2] = cluster.members
  const [list, own, settings] = (await Promise.all(
    ['cluster', 'patroni', 'config'].map(async (path) => (await fetch(`${n1!.url}/${path}`)).json()),
  )) as [{ members: Record<string, unknown>[] }, object, object]
  const members = list.members.map((member) =>
    member.name === n2!.name
      ? { ...member, host: '127.0.0.2', port: trap.port, api_url: `http://127.0.0.2:${trap.port}/patroni` }
      : member,
  )
  await using liar = await answering({
    '/cluster': { members },
    '/patroni': own,
    '/config': settings,
    '/switchover': { done: true },
  })
  const config = {
    ...reader().config,
    cluster: { patroni: [liar.url], etcd: [], namespace: '/service' },
    databaseUrl: cluster.adminUrl,
  }
  const state = await observeCluster({ config, fetch: () => fetch })
  expect(diagnose(state).findings).toContainEqual(
    expect.objectContaining({ id: 'cluster/member-elsewhere', object: 'member n 2' }),
  )
  expect(() => memberDatabase(config, state, 'n 2')).toThrow('no password is sent there')
  const plan = {
    ...{ kind: 'switchover' as const, scope: 'main', leader: 'n1', candidate: 'n 2', timeline: 1 },
    systemIdentifier: state.systemIdentifier,
  }
  expect(
    await askedMember(
      { config, fetch: () => fetch },
      plan,
      state.members.find(({ name }) => name === 'n 2')!,
    ),
  ).toBe(liar.url)
  // Its REST API was asked how it is, without a word of who asks; its Postgres was not.
  expect(heard).toEqual([expect.stringMatching(/^GET \/patroni /)])
  expect(heard.join()).not.toMatch(/authorization/i)
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

test('a list of members that comes late is waited for, up to three times; one that never comes is not', async () => {
  let failures = 2
  const server = createServer(async ({ url }, response) => {
    const isLate = url === '/cluster' && failures-- > 0
    const answer = isLate ? undefined : await fetch(`${cluster.urls[0]}${url}`)
    response.writeHead(answer?.status ?? 503).end(await answer?.text())
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const { config } = reader()
  const late = { config: { ...config, cluster: { ...config.cluster!, patroni: [url] } }, fetch: () => fetch }
  const names = async () => (await observeMember(late, 'n 2')).members.map(({ name }) => name).sort()
  expect(await names()).toEqual(['n 2', 'n1'])
  failures = 3
  expect(await names()).toEqual([new URL(url).host])
  expect(failures).toBe(0)
  server.close()
})

/** Notes whatever is said to it, and answers nothing. */
async function listening(host: string, heard: string[]) {
  const server = createTcpServer((socket) => {
    socket.on('data', (data) => {
      heard.push(data.toString('latin1'))
      socket.destroy()
    })
    socket.on('error', () => {})
  })
  await new Promise<void>((resolve) => server.listen(0, host, resolve))
  return {
    port: (server.address() as AddressInfo).port,
    [Symbol.asyncDispose]: () => new Promise<void>((resolve) => server.close(() => resolve())),
  }
}

describe('a member is told of', { timeout: 60_000 }, () => {
  const said = async () => {
    const { leader, verdict, findings } = diagnose(await observeCluster(reader(undefined, cluster.adminUrl)))
    return [leader, verdict, ...findings.map(({ id, object }) => `${id} of ${object}`)]
  }
  const whole = ['n1', 'led', 'cluster/not-strict of cluster main']
  const isSaid = (finding: string) =>
    expect.poll(said, { timeout: 20_000 }).toEqual(expect.arrayContaining(['n1', 'led', finding]))
  const second = () => cluster.members[1]!
  const write = async (bytes: number) => {
    await using db = openDatabase({ url: cluster.adminUrl })
    await db.query(`select pg_logical_emit_message(true, 'test', repeat('x', $1))`, [bytes])
  }
  afterEach(() => expect.poll(said, { timeout: 30_000 }).toEqual(whole))

  test.each([
    ['cut off from everybody', ['store', 'members', 'clients'], 'cluster/member-silent'],
    ['cut off from the store alone', ['store'], 'cluster/store-unreached'],
  ] as const)('that is %s', async (_, from, finding) => {
    await using _cut = second().isolate(from)
    await isSaid(`${finding} of member n 2`)
  })

  test('that receives WAL too slowly to lead', async () => {
    await using _slow = second().lag({ bytesPerS: 100_000 })
    await write(3_000_000)
    await isSaid('cluster/lag-over-maximum of member n 2')
  })

  test('whose disk is full, which Patroni does not see', async () => {
    await using db = openDatabase({ url: cluster.adminUrl })
    await using _full = await cluster.members[0]!.fillDisk()
    await isSaid('cluster/disk-full of member n1')
    expect(await takesWrites({ db })).toEqual({ value: 0, why: 'its disk is full' })
  })
})

describe('an etcd that wants a user', () => {
  let store: PatroniServer
  const client = (credentials?: string) => openEtcd({ urls: [store.etcd.url], fetch, credentials })
  const set = async (path: string, body: object, token?: string) => {
    const response = await fetch(`${store.etcd.url}/v3/auth/${path}`, {
      method: 'POST',
      body: JSON.stringify(body),
      ...(token === undefined ? {} : { headers: { authorization: token } }),
    })
    expect(await response.json()).not.toHaveProperty('error')
  }
  const encode = (text: string) => Buffer.from(text).toString('base64')
  beforeAll(async () => {
    store = await startPatroni({ scope: 'store', members: [] })
    for (const name of ['root', 'tabib']) await set('user/add', { name, password: `${name}:secret` })
    for (const name of ['root', 'tabib']) await set('role/add', { name })
    for (const [key, permType] of [
      ['/service/', 'READ'],
      ['/tabib/', 'READWRITE'],
    ] as const) {
      const perm = { permType, key: encode(key), range_end: encode(key.replace(/\/$/, '0')) }
      await set('role/grant', { name: 'tabib', perm })
    }
    for (const user of ['root', 'tabib']) await set('user/grant', { user, role: user })
    await set('enable', {})
  }, 60_000)
  afterAll(() => store[Symbol.asyncDispose]())

  test('is read, and a claim made, by the one that the configuration has', async () => {
    const etcd = client('tabib:tabib:secret')
    expect(await etcd.read('/service/main/')).toEqual(new Map())
    await using claim = await etcd.claim('/tabib/lead/service/main/claim', 'maryam', { ttlS: 60 })
    expect(claim.held).toBe(true)
    expect(
      await client('tabib:tabib:secret').claim('/tabib/lead/service/main/claim', 'x', { ttlS: 60 }),
    ).toMatchObject({
      held: false,
      by: 'maryam',
    })
  })

  test.each([undefined, 'tabib:wrong', 'nobody:x'])('refuses %s', async (credentials) => {
    await expect(client(credentials).read('/service/main/')).rejects.toMatchObject({ code: 'NOT_AUTHORISED' })
  })

  test('refuses what its role may not', async () => {
    await expect(client('tabib:tabib:secret').read('/other/')).rejects.toMatchObject({
      code: 'NOT_AUTHORISED',
    })
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
