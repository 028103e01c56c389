import { randomUUID } from 'node:crypto'
import { join } from 'node:path'
import { execa } from 'execa'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest'
import { openPgBouncer } from '../../src/adapters/pgbouncer/client.ts'
import { type Database, openDatabase, type Wait } from '../../src/adapters/postgres/client.ts'
import { holdTarget } from '../../src/domain/audit/operation.ts'
import { applyEnd, planEnd } from '../../src/domain/cluster/end-session.ts'
import { diagnosePool } from '../../src/domain/cluster/judge-pool.ts'
import { observePool } from '../../src/domain/cluster/pool.ts'
import { connectionsFor } from '../../src/domain/cluster/pool-size.ts'
import { openWaitLog, poolWait } from '../../src/domain/cluster/pool-wait.ts'
import { redactSql } from '../../src/domain/cluster/redact-sql.ts'
import { listSessions } from '../../src/domain/cluster/sessions.ts'
import { packageRoot } from '../../src/package-root.ts'
import { type PgBouncerServer, startPgBouncer } from '../../src/sandbox/servers/pgbouncer.ts'
import { useDatabase } from '../support/database.ts'

const database = useDatabase()
const tenant = '8c1f2a9e-0d5b-4b8e-9d53-0a7e3c5d1f20'
// Roles are the server's, which other test files use as well.
const [watcher, crowd] = [`watcher_${database.name}`, `crowd_${database.name}`]
let pooler: PgBouncerServer
let admin: Database

beforeAll(async () => {
  pooler = await startPgBouncer({ urls: [database.url('tabib'), database.url('service')] })
  admin = openDatabase({ url: inject('adminUrl'), maxConnections: 2, applicationName: 'admin' })
  await admin.query(`create role ${watcher} login password 'watches' in role pg_monitor`)
  await admin.query(`create role ${crowd} login password 'many' connection limit 0`)
})
afterAll(async () => {
  await pooler[Symbol.asyncDispose]()
  await admin.query(`drop role ${watcher}`)
  await admin.query(`drop role ${crowd}`)
  await admin.close()
})

const as = (role: string, password: string) => {
  const url = new URL(database.url('tabib'))
  Object.assign(url, { username: role, password })
  return url.href
}
const observe = () =>
  observePool({ db: database.db, config: { pgbouncerUrl: pooler.consoleUrl } }, { sampleMs: 0 })
const diagnosis = async () => diagnosePool(await observe(), { cores: undefined })
const processOf = async (name: string) => {
  const all = await listSessions(database.db)
  return all.find(({ application }) => application === name)!
}
/** A session that has begun a transaction, and said for whom. */
async function idle(name: string, role: 'tabib' | 'service' = 'tabib') {
  const db = openDatabase({ url: database.url(role), maxConnections: 1, applicationName: name })
  const connection = await db.connection()
  await connection.query(`begin; select set_config('app.tenant_id', '${tenant}', true), 'Zahra Ahmadi'`)
  const { pid } = await processOf(name)
  return {
    pid,
    connection,
    async [Symbol.asyncDispose]() {
      await connection.query('rollback').catch(() => {})
      await connection[Symbol.asyncDispose]()
      await db.close()
    },
  }
}

test.each([
  [
    "select * from patient where name = 'Zahra' and born = 1987",
    'select * from patient where name = ? and born = ?',
  ],
  [`select 'it''s', E'a\\'Zahra', "Name" -- Zahra\n from t`, 'select ?, …, "Name" from t'],
  ["select 'C:\\', 'Zahra'", 'select ? …'],
  ['do $a$ begin perform $$Zahra$$; end $a$; select $1', 'do ?; select $1'],
  ["insert into t values (1, -2.5e-3, U&'d\\0061t', x'ff', 0x1F)", 'insert into t values (?, -?, …)'],
  ['select /* Zahra /* nested */ Zahra */ 1', 'select ? …'],
  ["select name from patient where phone = '+93 70", 'select name from patient where phone = ?'],
  ['select $q$cut off Zah', 'select ?'],
  ['update "بیمار" set نام = \'زهرا\' where کد=123', 'update "بیمار" set نام = ? where کد=?'],
])('a statement is shown without what may be a patient’s: %s', (query, shown) => {
  expect(redactSql(query)).toBe(shown)
})

test('a pool is as large as it must be for one in twenty to wait, and no larger', () => {
  // Erlang C as it is written in textbooks, which overflows for large pools.
  const waits = (busy: number, count: number) => {
    const term = (n: number) => Array.from({ length: n }, (_, i) => busy / (i + 1)).reduce((a, b) => a * b, 1)
    const all = (term(count) * count) / (count - busy)
    return all / (Array.from({ length: count }, (_, n) => term(n)).reduce((a, b) => a + b, 0) + all)
  }
  for (const busy of [0.7, 1, 3, 10, 40]) {
    const count = connectionsFor(busy)
    expect(waits(busy, count)).toBeLessThanOrEqual(0.05)
    if (count - 1 > busy && count > 2) expect(waits(busy, count - 1)).toBeGreaterThan(0.05)
  }
  expect([0, Number.NaN].map(connectionsFor)).toEqual([2, 2])
})

test('a p95 on the threshold is not beyond it, and waits are forgotten after five seconds', () => {
  let now = 100
  const log = openWaitLog(() => now)
  for (let n = 0; n < 100; n += 1) log.record({ seconds: n < 94 ? 0.001 : 0.5, refused: false })
  expect(log.figures()).toEqual({ waits: 100, p95S: 0.5, refused: 0 })
  now = 103
  log.record({ seconds: 3, refused: true })
  expect(log.figures()).toMatchObject({ waits: 101, refused: 1 })
  now = 109
  expect(log.figures()).toEqual({ waits: 0, p95S: 0, refused: 0 })
})

describe('who has a connection', () => {
  test('is told by login, application, address and tenant; also behind pgbouncer, which connects in its own name', async () => {
    await using _direct = await idle('nightly-report', 'tabib')
    await using _held = await pooler.hold(database.url('tabib'), 1)
    const { sessions } = await diagnosis()
    expect(sessions.find(({ application }) => application === 'nightly-report')).toMatchObject({
      tenant,
      state: 'idle in transaction',
      query: 'begin; select set_config(?, …, true), ?',
      owner: expect.stringMatching(/^tabib, nightly-report, 127\.0\.0\.1:\d+$/),
    })
    expect(sessions.map(({ owner }) => owner)).toContainEqual(
      expect.stringMatching(/^tabib, statement export, 127\.0\.0\.1 through pgbouncer$/),
    )
  })

  test('of another role is counted and not seen without pg_monitor, and may not be ended', async () => {
    await using other = await idle('cashier', 'service')
    const blind = await diagnosis()
    expect(blind.findings.map(({ id }) => id)).toContain('pool/unseen')
    expect(blind.sessions.find(({ pid }) => pid === other.pid)?.state).toBeUndefined()
    await expect(planEnd(database, { by: 'terminate', which: other.pid, idleForS: 0 })).rejects.toMatchObject(
      { code: 'NOT_AUTHORISED', suggestions: ['grant pg_monitor to tabib', 'docs/cluster.md'] },
    )

    await using watching = openDatabase({ url: as(watcher, 'watches'), maxConnections: 1 })
    await expect(
      planEnd({ db: watching }, { by: 'terminate', which: other.pid, idleForS: 0 }),
    ).rejects.toMatchObject({ message: 'this role may not end sessions of service' })
  })
})

describe('ending a session', () => {
  test('hits the one that was planned, and not what has its process number by then', async () => {
    await using one = await idle('hangs')
    const { plan } = await planEnd(database, { by: 'terminate', which: one.pid, idleForS: 0 })
    const former = { ...plan, sessions: [{ ...plan.sessions[0]!, backendStart: '2026-01-01T00:00:00Z' }] }
    expect(await applyEnd(database, former)).toMatchObject([{ outcome: 'moved-on' }])
    expect(await processOf('hangs')).toMatchObject({ pid: one.pid })
    // A pooled connection serves the next client under the same number: another transaction is another session.
    await one.connection.query('commit; begin')
    expect(await applyEnd(database, plan)).toMatchObject([{ outcome: 'moved-on' }])
    const again = await planEnd(database, { by: 'terminate', which: one.pid, idleForS: 0 })
    expect(await applyEnd(database, again.plan)).toMatchObject([{ outcome: 'ended' }])
    expect(await processOf('hangs')).toBeUndefined()
  })

  test('cancels a statement and leaves the session; an idle one has none', async () => {
    await using one = await idle('slow')
    await expect(planEnd(database, { by: 'cancel', which: one.pid, idleForS: 0 })).rejects.toMatchObject({
      code: 'CLUSTER_REFUSED',
    })
    const sleeping = one.connection.query('select pg_sleep(60)').catch((error) => error)
    while ((await processOf('slow')).state !== 'active');
    const { plan } = await planEnd(database, { by: 'cancel', which: one.pid, idleForS: 0 })
    expect(await applyEnd(database, plan)).toMatchObject([{ outcome: 'ended' }])
    expect(await sleeping).toMatchObject({ code: 'TIMED_OUT' })
    expect((await processOf('slow')).state).toBe('idle in transaction (aborted)')
  })

  test('leaves alone who asks, tabib’s workers unless they are asked for, and who is not idle for so long', async () => {
    await using worker = await idle('tabib worker run')
    const ask = (which: number | 'idle', protectedToo = false) =>
      planEnd(database, { by: 'terminate', which, idleForS: 0, protectedToo })
    await expect(ask(worker.pid)).rejects.toMatchObject({
      code: 'CLUSTER_REFUSED',
      suggestions: [`tabib cluster pool --terminate ${worker.pid} --protected`],
    })
    expect((await ask(worker.pid, true)).plan.sessions).toHaveLength(1)
    await using connection = await database.db.connection()
    const [own] = await connection.query<{ pid: number }>('select pg_backend_pid() as pid')
    const self = { db: connection }
    await expect(
      planEnd(self, { by: 'terminate', which: own!.pid, idleForS: 0, protectedToo: true }),
    ).rejects.toMatchObject({ message: `process ${own!.pid} is the session that asks` })
    await expect(
      planEnd(database, { by: 'terminate', which: 'idle', idleForS: 3_600 }),
    ).rejects.toMatchObject({ code: 'NOT_NEEDED' })
    await expect(ask(2 ** 31 - 1)).rejects.toMatchObject({ code: 'NOT_FOUND' })
  })

  test('leaves replication alone: a standby would lag', async () => {
    const standby = new pg.Client({
      connectionString: inject('adminUrl'),
      application_name: 'standby-2',
      replication: 'true',
    } as pg.ClientConfig)
    await standby.connect()
    try {
      const [row] = await admin.query<{ pid: number }>(
        `select pid from pg_stat_activity where application_name = 'standby-2'`,
      )
      await expect(
        planEnd({ db: admin }, { by: 'terminate', which: row!.pid, idleForS: 0 }),
      ).rejects.toMatchObject({ message: expect.stringContaining('replication (standby-2)') })
    } finally {
      await standby.end()
    }
  })
})

describe('an exhausted pool', () => {
  const opened = (url: string, waits: Wait[] = [], connectTimeoutMs = 5_000) =>
    openDatabase({ url, maxConnections: 3, connectTimeoutMs, onWait: (wait) => waits.push(wait) })
  const allTaken = async (db: Database) => {
    const all = await Promise.all([db.connection(), db.connection(), db.connection()])
    return {
      [Symbol.asyncDispose]: async () =>
        void (await Promise.all(all.map((one) => one[Symbol.asyncDispose]()))),
    }
  }

  test('of the process itself, of pgbouncer, of Postgres: each is told as that, and counted', async () => {
    const waits: Wait[] = []
    await using own = opened(database.url('tabib'), waits, 1_000)
    await using _taken = await allTaken(own)
    await expect(own.query('select 1')).rejects.toMatchObject({ code: 'POOL_EXHAUSTED', retryable: true })
    expect(waits).toMatchObject([{ refused: true }])

    await using full = opened(as(crowd, 'many'))
    await expect(full.query('select 1')).rejects.toMatchObject({ code: 'POOL_EXHAUSTED' })
  })

  test('is seen, measured, sized and told how to set, while pgbouncer’s queue waits', async () => {
    const url = database.url('tabib')
    await using _held = await pooler.hold(url, 1)
    await using client = opened(pooler.through(url))
    const refused = Promise.allSettled([1, 2, 3].map((n) => client.query(`select ${n}`)))
    const config = { pgbouncerUrl: pooler.consoleUrl }
    let seen = await poolWait({ db: database.db, config })
    while (seen.waitS <= 0.5) seen = await poolWait({ db: database.db, config })
    expect(seen.pools).toMatchObject([{ clientsWaiting: 3 }])

    const { advice, commands, findings } = await diagnosis()
    expect(advice.find(({ user }) => user === 'tabib')).toMatchObject({ size: 1, wants: 4, fits: 4, now: 4 })
    expect(findings.map(({ id }) => id)).toEqual(expect.arrayContaining(['pool/waiting', 'pool/too-small']))
    expect(commands).toEqual([
      `psql postgres://stats@${new URL(pooler.consoleUrl).host}/pgbouncer -c 'SET default_pool_size = 4'    # now, until the next RELOAD`,
      '# pgbouncer.ini, [pgbouncer]: default_pool_size = 4',
      `psql postgres://stats@${new URL(pooler.consoleUrl).host}/pgbouncer -c 'RELOAD'    # for good, once the file says so`,
    ])
    expect((await refused).map((one) => one.status === 'rejected' && one.reason.code)).toEqual(
      Array(3).fill('POOL_EXHAUSTED'),
    )
  })

  test('where the question itself gets no connection, that is the answer', async () => {
    await using own = opened(database.url('tabib'), [], 1_000)
    await using _taken = await allTaken(own)
    const config = { pgbouncerUrl: undefined }
    expect(await poolWait({ db: own, config })).toMatchObject({ waitS: 3, refusedHere: expect.any(String) })
  })
})

test('through a pool in transaction mode statements are not prepared, and what needs a session is told of', async () => {
  await using db = openDatabase({ url: pooler.through(database.url('service')), maxConnections: 2 })
  const named = () => db.transaction((tx) => tx.query('select $1::int as n', [1], 'once'))
  for (let n = 0; n < 3; n += 1)
    expect(await Promise.all([named(), named()])).toEqual([[{ n: 1 }], [{ n: 1 }]])
  const state = await observePool({ db, config: { pgbouncerUrl: pooler.consoleUrl } }, { sampleMs: 0 })
  expect(diagnosePool(state, { cores: undefined }).findings).toContainEqual(
    expect.objectContaining({ id: 'pool/no-session', severity: 'error' }),
  )
})

describe('a console', () => {
  test.each([
    ['nobody answers', { port: '9' }, 'PGBOUNCER_UNREACHABLE', /ECONNREFUSED/],
    ['the password is wrong', { password: 'wrong' }, 'NOT_AUTHORISED', /stats see its console/],
    ['the login is unknown', { username: 'nobody' }, 'NOT_AUTHORISED', /nobody see its console/],
  ])('where %s', async (_, change, code, message) => {
    const url = Object.assign(new URL(pooler.consoleUrl), change)
    const reading = openPgBouncer({ url: url.href, timeoutMs: 1_000 }).read()
    await expect(reading).rejects.toMatchObject({ code, message: expect.stringMatching(message) })
  })

  test('of a login that may not look, and what is no pgbouncer', async () => {
    const service = new URL(pooler.through(database.url('service')))
    await expect(openPgBouncer({ url: service.href }).read()).rejects.toMatchObject({
      code: 'NOT_AUTHORISED',
    })
    await expect(openPgBouncer({ url: inject('adminUrl') }).read()).rejects.toMatchObject({
      code: 'PGBOUNCER_UNREACHABLE',
      message: expect.stringMatching(/what answers there is no pgbouncer/),
    })
  })
})

test('the command ends the session that is named, once, for one operator at a time, and the trail has it', {
  timeout: 60_000,
}, async () => {
  await using stuck = await idle('stuck-export')
  const env = { TABIB_DATABASE_URL: database.url('tabib'), TABIB_ACTOR: 'laila@ops' }
  const argv = ['cluster', 'pool', '--terminate', String(stuck.pid), '--reason', 'export hangs', '--json']
  const end = async (...confirm: string[]) => {
    const { exitCode, stdout } = await execa(join(packageRoot(), 'bin/run.js'), [...argv, ...confirm], {
      env,
      reject: false,
    })
    return { exitCode, ...JSON.parse(stdout) }
  }
  const hasEnded = (one: Awaited<ReturnType<typeof end>>) => one.result?.ended?.[0]?.outcome === 'ended'
  const held = { target: `session:${stuck.pid}`, runId: randomUUID(), actor: 'ahmad@ops' }
  {
    await using _first = await holdTarget(database.db, { ...held, command: 'cluster pool' })
    expect(await end('--confirm', String(stuck.pid))).toMatchObject({
      exitCode: 5,
      error: { code: 'LOCKED', message: expect.stringContaining('ahmad@ops runs "cluster pool" on it') },
    })
  }
  expect(await processOf('stuck-export')).toMatchObject({ pid: stuck.pid })
  // Both at once: whoever comes second finds it held, or gone.
  const both = await Promise.all([end('--confirm', String(stuck.pid)), end('--confirm', String(stuck.pid))])
  const [done, late] = both.sort((a, b) => Number(hasEnded(b)) - Number(hasEnded(a)))
  expect(done).toMatchObject({ exitCode: 0, result: { ended: [{ pid: stuck.pid, outcome: 'ended' }] } })
  expect([
    [5, 'LOCKED'],
    [2, 'NOT_FOUND'],
    [0, undefined],
  ]).toContainEqual([late.exitCode, late.error?.code])
  if (late.exitCode === 0) expect(late.result.ended).toMatchObject([{ outcome: 'moved-on' }])
  expect(await processOf('stuck-export')).toBeUndefined()
  const trail = await database.db.query<{ phase: string; outcome: string | null }>(
    `select record ->> 'phase' as phase, record ->> 'outcome' as outcome from tabib.audit
     where run_id = $1 order by seq`,
    [done.runId],
  )
  expect(trail).toEqual([
    { phase: 'before', outcome: null },
    { phase: 'after', outcome: 'ok' },
  ])
})
