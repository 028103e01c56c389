import { randomUUID } from 'node:crypto'
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { decodeJwt, decodeProtectedHeader } from 'jose'
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest'
import { openKeyStore } from '../../src/adapters/keystore/client.ts'
import { type ApiServer, serve } from '../../src/api/server.ts'
import { openSessionApi, type SessionApi } from '../../src/api/sessions.ts'
import { type App, createApp, createLogger } from '../../src/app.ts'
import { loadConfig } from '../../src/config.ts'
import { activateKey } from '../../src/domain/keys/phase.ts'
import { revokeKey } from '../../src/domain/keys/revoke.ts'
import { CANDIDATE, prepareKey } from '../../src/domain/keys/rotate.ts'
import { activeKey, signToken } from '../../src/domain/keys/sign.ts'
import { acceptedUnder, evictRevoked } from '../../src/domain/sessions/evict.ts'
import {
  forgedJoins,
  joinedAfterExpiry,
  joinTokenSigning,
  leakedKeys,
} from '../../src/domain/sessions/join-failures.ts'
import {
  forgetJoinTokens,
  JOIN_TOKEN,
  prepareJoinToken,
  recordJoinToken,
} from '../../src/domain/sessions/join-token.ts'
import { asTenant } from '../../src/domain/sessions/tenant.ts'
import { type KmsSimulator, startKms } from '../../src/sandbox/simulators/kms.ts'
import { makeVisit, type Visit } from '../../src/sandbox/visit.ts'
import { type ScheduledWorker, startWorkers, thisInstance } from '../../src/worker.ts'
import { findWorker } from '../../src/workers/index.ts'
import { useDatabase } from '../support/database.ts'
import { runLine } from '../support/line.ts'

const database = useDatabase()
let folder: string
let kms: KmsSimulator
let app: App
let api: SessionApi
let server: ApiServer
let visit: Visit
let env: Record<string, string>

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tabib-join-'))
  kms = await startKms()
  await writeFile(join(folder, 'credentials'), kms.credentials, { mode: 0o600 })
  env = {
    TABIB_DATABASE_URL: database.url('tabib'),
    TABIB_NATS_URL: inject('natsUrl'),
    TABIB_KEY_STORE: kms.keyStore,
    TABIB_KEY_STORE_SECRET_FILE: join(folder, 'credentials'),
  }
  app = createApp(loadConfig({ env, cwd: folder }), { log: createLogger('silent') })
  visit = await makeVisit({ ...systems(), service: database.service }, await tenant())
  api = await openSessionApi(app, 'test')
  server = await serve(app, startWorkers(app, [], thisInstance('test')), {
    host: '127.0.0.1',
    port: 0,
    sessions: api,
  })
})
afterAll(async () => {
  await server[Symbol.asyncDispose]()
  await api[Symbol.asyncDispose]()
  await app[Symbol.asyncDispose]()
  await kms[Symbol.asyncDispose]()
  await rm(folder, { recursive: true })
})

const systems = () => ({ db: app.db, nats: app.nats, keyStore: app.keyStore })
const tenant = async () => {
  const id = randomUUID()
  await database.db.query(
    `insert into tabib.tenant (id, slug, name, region, currency) values ($1, $2, 'Herat', 'AF', 'AFN')`,
    [id, `herat-${id}`],
  )
  return id
}
const otherVisit = async () => makeVisit({ ...systems(), service: database.service }, await tenant())

const tabib = (...argv: string[]) => runLine(argv, env)

interface Answer {
  status: number
  // biome-ignore lint/suspicious/noExplicitAny: an answer's body is what the test says of it
  body: any
  headers: Headers
}
const post = async (path: string, bearer?: string, body?: unknown): Promise<Answer> => {
  const response = await fetch(`${server.url}${path}`, {
    method: 'POST',
    headers: {
      ...(bearer === undefined ? {} : { authorization: `Bearer ${bearer}` }),
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
  return { status: response.status, body: await response.json(), headers: response.headers }
}
const path = (sessionId: string, door: string) => `/api/v1/virtual-care/sessions/${sessionId}/${door}`
const ask = (who: Visit = visit, participantId = who.participantIds[0]) =>
  post(path(who.sessionId, 'join-token'), who.serviceToken, { participantId })
const knock = (token: string, sessionId = visit.sessionId) => post(path(sessionId, 'join'), token)
const tokenOf = async (who: Visit = visit): Promise<string> => (await ask(who)).body.token
/** As who holds the key signs: with claims of their own. */
const sign = async (claims: Record<string, unknown>, lifetimeS = 60, typ: string = JOIN_TOKEN.typ) => {
  const { token } = await signToken(
    { db: app.db, keyStore: await app.keyStore() },
    {
      purpose: JOIN_TOKEN.purpose,
      typ,
      lifetimeS,
      claims: {
        iss: JOIN_TOKEN.issuer,
        aud: JOIN_TOKEN.audience,
        jti: randomUUID(),
        sub: visit.participantIds[0],
        tenant_id: visit.tenantId,
        session_id: visit.sessionId,
        ...claims,
      },
    },
  )
  return token
}
const counted = async (): Promise<Record<string, number>> => {
  const rows = await database.db.query<{ outcome: string; n: number }>(
    'select outcome, sum(n)::float8 as n from tabib.join_token_count group by outcome',
  )
  return Object.fromEntries(rows.map(({ outcome, n }) => [outcome, n]))
}
/** The tally writes within a second; waits for what the test has caused. */
const eventually = async <T>(read: () => Promise<T>, met: (value: T) => boolean): Promise<T> => {
  for (const deadline = Date.now() + 10_000; ; ) {
    const value = await read()
    if (met(value) || Date.now() > deadline) return value
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

test('a participant joins with a token, and comes back with the same one', async () => {
  const { status, body, headers } = await ask()
  expect(status).toBe(201)
  expect(headers.get('cache-control')).toBe('no-store')
  for (const n of [1, 2]) {
    const joined = await knock(body.token)
    expect(joined.body).toEqual({
      tenantId: visit.tenantId,
      sessionId: visit.sessionId,
      participantId: visit.participantIds[0],
      role: 'patient',
    })
    const [row] = await database.db.query(
      `select participant_id, acceptances, expires_at - issued_at < interval '3 min' as short from virtual_care.join_token
       where jti = $1`,
      [decodeJwt(body.token).jti],
    )
    expect(row).toEqual({ participant_id: visit.participantIds[0], acceptances: n, short: true })
  }
})

test('a service calls with the token that an operator issued it, for its tenant alone', async () => {
  const other = await otherVisit()
  const file = join(folder, 'service.jwt')
  const issue = (tenantId: string, ...more: string[]) =>
    tabib('token', 'issue', '--service', 'scheduling', '--tenant', tenantId, '--file', file, ...more)
  expect(await issue(other.tenantId)).toMatchObject({ exitCode: 5, stderr: expect.stringMatching(/--yes/) })
  expect(await issue('nobody', '--yes')).toMatchObject({
    exitCode: 2,
    stderr: expect.stringMatching(/no tenant "nobody"/),
  })
  for (const more of [
    ['--lifetime', '999ms'],
    ['--service', 'Scheduling\u001b[2J'],
  ]) {
    const argv = ['--service', 'scheduling', '--tenant', other.tenantId, '--file', file, ...more]
    expect(await tabib('token', 'issue', ...argv)).toMatchObject({ exitCode: 2 })
  }
  expect(await issue(other.tenantId, '--yes')).toMatchObject({ exitCode: 0 })
  expect(await issue(other.tenantId, '--yes')).toMatchObject({
    exitCode: 2,
    stderr: expect.stringMatching(/service.jwt is there already/),
  })
  const serviceToken = await readFile(file, 'utf8')
  expect((await stat(file)).mode & 0o777).toBe(0o600)
  expect((await ask({ ...other, serviceToken })).status).toBe(201)
  expect((await ask({ ...visit, serviceToken })).status).toBe(404)
  const trail = await database.db.query('select record::text from tabib.audit')
  expect(JSON.stringify(trail)).toContain('service scheduling')
  expect(JSON.stringify(trail)).not.toContain(serviceToken)
})

describe('join-token refuses', () => {
  test('who has no service token, or another kind of token', async () => {
    const anybody = await post(path(visit.sessionId, 'join-token'), undefined, {})
    expect(anybody).toMatchObject({ status: 401, body: { statusCode: 401, code: 'TOKEN_INVALID' } })
    expect(anybody.headers.get('www-authenticate')).toMatch(/^Bearer/)
    const withJoinToken = await post(path(visit.sessionId, 'join-token'), await tokenOf(), {
      participantId: visit.participantIds[0],
    })
    expect(withJoinToken).toMatchObject({ status: 401, body: { code: 'TOKEN_INVALID' } })
    const cashier = { ...visit, serviceToken: visit.billingToken }
    expect(await ask(cashier)).toMatchObject({ status: 401, body: { code: 'TOKEN_INVALID' } })
  })

  test('sessions and participants that the caller’s tenant does not have', async () => {
    const other = await otherVisit()
    const [mine] = visit.participantIds
    const wrong: [string, string][] = [
      [other.sessionId, other.participantIds[0]],
      [visit.sessionId, other.participantIds[0]],
      [other.sessionId, mine],
      [randomUUID(), mine],
    ]
    for (const [sessionId, participantId] of wrong) {
      const refused = await post(path(sessionId, 'join-token'), visit.serviceToken, { participantId })
      expect(refused).toMatchObject({ status: 404, body: { code: 'NOT_FOUND' } })
    }
  })

  test('what it cannot read, in words', async () => {
    const door = path(visit.sessionId, 'join-token')
    expect(await post(path('nonsense', 'join-token'), visit.serviceToken, {})).toMatchObject({ status: 400 })
    expect((await post(door, visit.serviceToken, { participantId: 7 })).body.message).toMatch(/participantId/)
    expect(await post(door, visit.serviceToken, { participantId: randomUUID(), extra: 1 })).toMatchObject({
      status: 400,
      body: { statusCode: 400, code: 'USAGE' },
    })
    const large = await post(door, visit.serviceToken, { participantId: 'x'.repeat(20_000) })
    expect(large).toMatchObject({ status: 413, body: { statusCode: 413, code: 'USAGE' } })
  })

  test('a session that is over', async () => {
    const other = await otherVisit()
    const token = await tokenOf(other)
    await database.owner.query(`alter table virtual_care.session no force row level security`)
    await database.owner.query(`update virtual_care.session set status = 'ended' where id = $1`, [
      other.sessionId,
    ])
    await database.owner.query(`alter table virtual_care.session force row level security`)
    expect(await ask(other)).toMatchObject({ status: 409, body: { code: 'SESSION_ENDED' } })
    expect(await knock(token, other.sessionId)).toMatchObject({
      status: 409,
      body: { code: 'SESSION_ENDED' },
    })
  })
})

describe('join refuses', () => {
  test('tokens of another kind, for another session, or that are none', async () => {
    const other = await otherVisit()
    for (const token of [
      visit.serviceToken,
      'nonsense',
      'a.b.c',
      await tokenOf(other),
      await sign({ aud: 'virtual-care' }),
      await sign({ iss: 'somebody' }),
      await sign({ sub: 'the patient' }),
      await sign({}, 60, 'JWT'),
      `${(await tokenOf()).slice(0, -6)}AAAAAA`,
    ]) {
      expect(await knock(token)).toMatchObject({ status: 401, body: { code: 'TOKEN_INVALID' } })
    }
    expect((await knock(await tokenOf())).status).toBe(200)
  })

  test('an expired token with the link that gives another, by this host’s clock and by the database’s', async () => {
    const expired = await sign({}, -5)
    const late = await tokenOf()
    await database.owner.query('alter table virtual_care.join_token no force row level security')
    await database.owner.query(
      `update virtual_care.join_token set issued_at = issued_at - interval '1 h', expires_at = expires_at - interval '1 h'
       where jti = $1`,
      [decodeJwt(late).jti],
    )
    await database.owner.query('alter table virtual_care.join_token force row level security')
    for (const token of [expired, late]) {
      const { status, body } = await knock(token)
      expect(status).toBe(401)
      const refresh = { method: 'POST', href: path(visit.sessionId, 'join-token') }
      expect(body).toMatchObject({ statusCode: 401, code: 'TOKEN_EXPIRED', refresh })
      const again = await post(body.refresh.href, visit.serviceToken, {
        participantId: visit.participantIds[0],
      })
      expect((await knock(again.body.token)).status).toBe(200)
    }
    expect(await joinedAfterExpiry(database)).toBe(0)
  })

  test('a token that the key signed and nobody issued; that is a leak, and pages once', async () => {
    const { key } = await activeKey(app, JOIN_TOKEN)
    for (let n = 0; n < 3; n += 1) {
      expect(await knock(await sign({}))).toMatchObject({
        status: 401,
        body: { message: 'no such token was issued' },
      })
    }
    const seen = await eventually(counted, (counts) => counts['not-issued'] === 3)
    expect(seen).toMatchObject({ 'not-issued': 3, expired: 2 })
    expect((await forgedJoins(database)).byReason).toMatchObject({ 'not-issued': 3 })
    expect(await leakedKeys(database)).toEqual([key.ref])
    const incidents = await database.db.query(
      `select severity, mode, state from tabib.incident where dedupe_key = $1`,
      [`communication/C10:${key.ref}`],
    )
    expect(incidents).toEqual([{ severity: 'page', mode: 'communication/C10', state: 'open' }])
  })
})

test('while the KMS is away: 503, the session stays, people are paged once; afterwards all goes on', async () => {
  const issuedBefore = await tokenOf()
  expect(await joinTokenSigning(app)).toMatchObject({ signable: true })
  kms.misbehave('drop')
  try {
    for (let n = 0; n < 2; n += 1) {
      const refused = await ask()
      expect(refused).toMatchObject({ status: 503, body: { statusCode: 503, code: 'KEY_STORE_UNREACHABLE' } })
      expect(refused.headers.get('retry-after')).toBe('5')
      expect(JSON.stringify(refused.body)).not.toMatch(/127\.0\.0\.1|kms/i)
    }
    expect(await joinTokenSigning(app)).toMatchObject({
      signable: false,
      why: expect.stringMatching(/KMS/),
    })
    // Who has a token joins all the same.
    expect((await knock(issuedBefore)).status).toBe(200)
    const paged = () =>
      database.db.query(`select severity, state from tabib.incident where mode = 'virtual-care/F13'`)
    expect(await eventually(paged, (rows) => rows.length > 0)).toEqual([{ severity: 'page', state: 'open' }])
  } finally {
    kms.misbehave(undefined)
  }
  const [session] = await database.db.query(
    'select status, version from virtual_care.session where id = $1',
    [visit.sessionId],
  )
  expect(session).toEqual({ status: 'active', version: 1 })
  expect((await ask()).status).toBe(201)
})

test('a host whose key store does not hold the key cannot tell whether it signs, until tokens are asked for in vain', async () => {
  const secretFile = join(folder, 'passphrase')
  await writeFile(secretFile, 'an operator’s own passphrase', { mode: 0o600 })
  const own = await openKeyStore({ url: `file:${folder}/own`, secretFile, fetch })
  const operators = { db: app.db, config: app.config, keyStore: async () => own }
  await database.db.query(`delete from tabib.join_token_count where outcome = 'unsigned'`)
  expect(await joinTokenSigning(operators)).toMatchObject({ signable: undefined, unsigned: 0 })
  api.tally.count('unsigned')
  const said = await eventually(
    () => joinTokenSigning(operators),
    ({ unsigned }) => unsigned > 0,
  )
  expect(said).toMatchObject({ signable: false, unsigned: 1 })
})

test('a revoked key lets nobody in, not even those who knock that moment; all are put out, and may come back', async () => {
  const bystander = await otherVisit()
  const unused = await tokenOf(bystander)
  const tokens = await Promise.all(Array.from({ length: 20 }, () => tokenOf()))
  const { key } = await activeKey(app, JOIN_TOKEN)
  const knocking = tokens.map((token) => knock(token))
  const revoked = await revokeKey(systems(), {
    kid: key.ref,
    reason: 'it leaked',
    by: 'test',
    runId: randomUUID(),
  })
  const [eviction, ...others] = await evictRevoked(app)
  const answers = await Promise.all(knocking)
  expect(others).toEqual([])
  expect(eviction?.sessions.map(({ sessionId }) => sessionId).sort()).toEqual(
    expect.arrayContaining([visit.sessionId, bystander.sessionId].sort()),
  )
  const [open] = await database.db.query(
    'select count(*)::int as n from virtual_care.join_token where kid = $1 and revoked_at is null',
    [key.ref],
  )
  expect(open).toEqual({ n: 0 })
  for (const token of [...tokens.slice(0, 3), unused]) {
    const sessionId = token === unused ? bystander.sessionId : visit.sessionId
    expect(await knock(token, sessionId)).toMatchObject({ status: 401, body: { code: 'TOKEN_INVALID' } })
  }

  const accepted = await acceptedUnder(database, { kid: key.ref })
  const jtis = accepted.map(({ jti }) => jti)
  for (const [n, { status }] of answers.entries()) {
    const { jti } = decodeJwt(tokens[n]!)
    if (status === 200) expect(jtis).toContain(jti)
    else expect(jtis).not.toContain(jti)
  }
  expect(jtis).not.toContain(decodeJwt(unused).jti)

  const events = await database.db.query<{ aggregate_id: string; tenant_id: string }>(
    `select aggregate_id, tenant_id from virtual_care.outbox where type = 'evicted' order by seq`,
  )
  expect(events).toContainEqual({ aggregate_id: bystander.sessionId, tenant_id: bystander.tenantId })
  expect(await evictRevoked(app)).toEqual([])

  expect(revoked.successor).not.toBeNull()
  const fresh = await tokenOf()
  expect(decodeJwt(fresh).jti).not.toBe(decodeJwt(tokens[0]!).jti)
  expect((await knock(fresh)).status).toBe(200)
  expect(await leakedKeys(database)).toEqual([])
})

test('keys revoke --leaked revokes the key that forged tokens name, once, and writes what was accepted under it', async () => {
  const { key } = await activeKey(app, JOIN_TOKEN)
  expect((await knock(await tokenOf())).status).toBe(200)
  expect((await knock(await sign({}))).status).toBe(401)
  await eventually(
    () => leakedKeys(database),
    (kids) => kids.length > 0,
  )
  const file = join(folder, 'forensics.json')
  const because = ['--reason', 'forged tokens', '--file', file]
  const revoke = (...argv: string[]) => tabib('keys', 'revoke', ...argv, ...because)
  expect(await revoke('--leaked')).toMatchObject({ exitCode: 5, stderr: expect.stringMatching(/--confirm/) })
  expect(await revoke('--leaked', key.ref)).toMatchObject({ exitCode: 2 })
  const first = await revoke('--leaked', '--confirm', 'join-token')
  const aftermath = /put everybody out: [1-9]\d*; tokens accepted under it: [1-9]\d*, in /
  expect(first).toMatchObject({ exitCode: 0, stdout: expect.stringMatching(aftermath) })
  const list = await readFile(file, 'utf8')
  const accepted = await acceptedUnder(database, { kid: key.ref })
  expect(JSON.parse(list)).toEqual({ kid: key.ref, accepted: JSON.parse(JSON.stringify(accepted)) })
  expect(accepted.map(({ sessionId }) => sessionId)).toContain(visit.sessionId)

  expect(await revoke('--leaked', '--confirm', 'join-token')).toMatchObject({ exitCode: 5 })
  expect(await revoke(key.ref, '--confirm', key.ref)).toMatchObject({
    exitCode: 0,
    stdout: expect.stringContaining(aftermath.exec(first.stdout)![0]),
  })
  expect(await readFile(file, 'utf8')).toBe(list)
})

/** Who waits for an advisory lock, once somebody does. */
const waiters = () =>
  eventually(
    () =>
      database.db.query(
        `select pid from pg_locks where locktype = 'advisory' and not granted
           and database = (select oid from pg_database where datname = current_database())`,
      ),
    (locks) => locks.length > 0,
  )

test('who comes in waits for an eviction under way', async () => {
  const token = await tokenOf()
  const { key } = await activeKey(app, JOIN_TOKEN)
  await using evicting = await database.db.connection()
  await evicting.query('begin')
  await evicting.query('select pg_advisory_xact_lock(hashtext($1))', [key.ref])
  const knocking = knock(token)
  expect(await waiters()).toHaveLength(1)
  await evicting.query('rollback')
  expect((await knocking).status).toBe(200)
})

test('a session that a revoked key opened lets nobody stay, whatever signed their token', async () => {
  const { key: leaked } = await activeKey(app, JOIN_TOKEN)
  const other = await otherVisit()
  await tokenOf(other)
  const ask = { purpose: JOIN_TOKEN.purpose, by: 'test', ...app.config.keys }
  const kid = await prepareKey(app, ask)
  await app.db.transaction((tx) => activateKey(tx, { ...ask, kid, from: CANDIDATE }))
  const token = await tokenOf(other)
  expect(decodeProtectedHeader(token).kid).toBe(kid)
  expect((await knock(token, other.sessionId)).status).toBe(200)
  await revokeKey(systems(), { kid: leaked.ref, reason: 'it leaked', by: 'test', runId: randomUUID() })
  await evictRevoked(app)
  expect(await knock(token, other.sessionId)).toMatchObject({
    status: 401,
    body: { message: 'everybody was put out of the session' },
  })
  expect((await knock(await tokenOf(other), other.sessionId)).status).toBe(200)
})

test('a token whose key was revoked while it was signed is not handed out', async () => {
  const { key } = await activeKey(app, JOIN_TOKEN)
  const keyStore = await app.keyStore()
  const slow = {
    ...keyStore,
    async sign(ref: string, bytes: Uint8Array) {
      const signature = await keyStore.sign(ref, bytes)
      await revokeKey(systems(), { kid: key.ref, reason: 'it leaked', by: 'test', runId: randomUUID() })
      return signature
    },
  }
  const { participantIds, ...session } = visit
  const seat = { ...session, participantId: participantIds[0] }
  const signed = await prepareJoinToken({ db: app.db, keyStore: async () => slow, tally: api.tally }, seat)
  await expect(
    asTenant(app.db, seat.tenantId, (tx) => recordJoinToken(tx, signed, seat)),
  ).rejects.toMatchObject({ code: 'KEYS_UNAVAILABLE' })
  expect((await ask()).status).toBe(201)
})

test('an eviction that a crash left undone is made by the key-rotation worker', async () => {
  const token = await tokenOf()
  const { key } = await activeKey(app, JOIN_TOKEN)
  await revokeKey(systems(), { kid: key.ref, reason: 'it leaked', by: 'test', runId: randomUUID() })
  const worker = findWorker('key-rotation') as ScheduledWorker
  await worker.pass(app, new AbortController().signal)
  const [row] = await database.db.query<{ revoked_at: Date | null }>(
    'select revoked_at from virtual_care.join_token where jti = $1',
    [decodeJwt(token).jti],
  )
  expect(row?.revoked_at).toBeInstanceOf(Date)
})

test('an eviction waits for who is coming in, and puts them out too', async () => {
  const token = await tokenOf()
  const { key } = await activeKey(app, JOIN_TOKEN)
  await using coming = await database.db.connection()
  await coming.query('begin')
  await coming.query('select pg_advisory_xact_lock_shared(hashtext($1))', [key.ref])
  await revokeKey(systems(), { kid: key.ref, reason: 'it leaked', by: 'test', runId: randomUUID() })
  const evicting = evictRevoked(app)
  expect(await waiters()).toHaveLength(1)
  await coming.query(`select set_config('role', 'tabib_app', true), set_config('app.tenant_id', $1, true)`, [
    visit.tenantId,
  ])
  const { jti } = decodeJwt(token)
  await coming.query(
    `update virtual_care.join_token
     set acceptances = 1, first_accepted_at = clock_timestamp(), last_accepted_at = clock_timestamp() where jti = $1`,
    [jti],
  )
  await coming.query('commit')
  expect((await evicting)[0]?.sessions.map(({ sessionId }) => sessionId)).toContain(visit.sessionId)
  expect((await acceptedUnder(database, { kid: key.ref })).map((one) => one.jti)).toContain(jti)
  expect(await knock(token)).toMatchObject({ status: 401 })
})

test('no participant is added to a session of another tenant, whoever asks', async () => {
  const other = await otherVisit()
  const adding = database.service.transaction(async (tx) => {
    await tx.query(`select set_config('app.tenant_id', $1, true)`, [other.tenantId])
    await tx.query(
      `insert into virtual_care.participant (tenant_id, session_id, person_id, role)
       values ($1, $2, gen_random_uuid(), 'companion')`,
      [other.tenantId, visit.sessionId],
    )
  })
  await expect(adding).rejects.toThrow(/foreign key/)
})

test('the process is ready once it holds every published key', async () => {
  const response = await fetch(`${server.url}/readyz`)
  expect(await response.json()).toMatchObject({ ready: true })
  expect(api.lacks()).toEqual([])
})

test('tokens are forgotten ninety days after they expired, but not those of a revoked key', async () => {
  const old = await tokenOf()
  const recent = await tokenOf()
  const { key } = await activeKey(app, JOIN_TOKEN)
  const backdate = (token: string, days: number) =>
    database.owner.query(
      `update virtual_care.join_token set expires_at = now() - make_interval(days => $2) where jti = $1`,
      [decodeJwt(token).jti, days],
    )
  const left = async () => {
    await forgetJoinTokens(app)
    const rows = await database.db.query<{ jti: string }>('select jti from virtual_care.join_token')
    return [old, recent].map((token) => rows.some(({ jti }) => jti === decodeJwt(token).jti))
  }
  // The owner of the tables sees no tenant's rows either.
  await database.owner.query('alter table virtual_care.join_token no force row level security')
  await backdate(old, 91)
  await backdate(recent, 89)
  expect(await left()).toEqual([false, true])
  await backdate(recent, 91)
  await revokeKey(systems(), { kid: key.ref, reason: 'it leaked', by: 'test', runId: randomUUID() })
  expect(await left()).toEqual([false, true])
})
