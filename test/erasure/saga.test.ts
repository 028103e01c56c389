import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { beforeAll, expect, it } from 'vitest'
import { listOperators } from '../../src/domain/approval/operator.ts'
import { removeOperator } from '../../src/domain/approval/remove.ts'
import { scanContent, tellContent } from '../../src/domain/erasure/content.ts'
import { listErasures } from '../../src/domain/erasure/list.ts'
import { acceptOrder, createOrder } from '../../src/domain/erasure/order.ts'
import { PARTICIPANTS } from '../../src/domain/erasure/participants.ts'
import { performStep } from '../../src/domain/erasure/perform.ts'
import { reconcileErasures } from '../../src/domain/erasure/reconcile.ts'
import { findReturned, reopenReturned } from '../../src/domain/erasure/returned.ts'
import { EXHAUSTED_AFTER, erasurePass } from '../../src/domain/erasure/saga.ts'
import { openForSubject, sealForSubject } from '../../src/domain/erasure/subject-key.ts'
import { examineDocuments } from '../../src/domain/ledger/documents.ts'
import { asTenant } from '../../src/domain/sessions/tenant.ts'
import { cachePatient, type PlantedPatient } from '../../src/sandbox/patients.ts'
import { runJson } from '../support/line.ts'
import { useWorld } from '../support/world.ts'

const world = useWorld()
const OPERATOR = 'privacy-officer'
const EVERYBODY = PARTICIPANTS.map(({ id }) => `erasure-${id}`)
let tenantId: string
let seed = 0

beforeAll(async () => {
  await world().operator(OPERATOR)
  tenantId = await world().tenant()
  await world().startWorkers(EVERYBODY)
})

const plant = async (of = tenantId, phone = `+93799${String(100_000 + ++seed)}`): Promise<PlantedPatient> => {
  const [patient] = await world().patients({ tenantId: of, count: 1, seed: ++seed, phone: () => phone })
  return patient!
}

async function order({ tenantId, patientId }: Pick<PlantedPatient, 'tenantId' | 'patientId'>) {
  const { app } = world()
  const { context } = app.config
  const jws = await createOrder(app, { operator: OPERATOR, tenantId, subjectId: patientId, context })
  return acceptOrder(
    { db: app.db, secret: await app.erasureSecret() },
    { order: jws, context, authorities: [OPERATOR] },
  )
}

/** Passes of the saga until the request is in that state; the participants work in a process of their own. */
async function until(requestId: string, state: 'watching' | 'complete'): Promise<void> {
  const { app } = world()
  for (let n = 0; n < 600; n += 1) {
    await erasurePass(app)
    const [request] = await listErasures(app, { state: 'all', id: requestId })
    if (request!.state === state) return
    await delay(25)
  }
  throw new Error(`request ${requestId} never was ${state}`)
}

const dayLater = (requestId: string) =>
  world().db.query(
    `update tabib.erasure_request set watch_until = watch_until - interval '24 hours' where id = $1`,
    [requestId],
  )

async function erase(patient: PlantedPatient): Promise<string> {
  const { requestId } = await order(patient)
  await until(requestId, 'watching')
  await dayLater(requestId)
  await until(requestId, 'complete')
  return requestId
}

const acks = (requestId: string) =>
  world().db.query<{ participant: string; round: number; rows: bigint; position: string }>(
    `select participant, round, rows_affected as rows, position from tabib.erasure_ack where request_id = $1
     order by participant, round`,
    [requestId],
  )

/** Every row of every table of the platform that says this, as text, whoever's it is. */
async function whoeverSays(said: string): Promise<string[]> {
  const tables = await world().db.query<{ name: string }>(
    `select format('%I.%I', table_schema, table_name) as name from information_schema.tables
     where table_schema in ('tabib', 'virtual_care', 'billing', 'communication') and table_type = 'BASE TABLE'
       and table_name !~ '^outbox_'`,
  )
  const { adminUrl } = world().postgres
  const { openDatabase } = await import('../../src/adapters/postgres/client.ts')
  const { pathname } = new URL(world().env.TABIB_DATABASE_URL!)
  await using admin = openDatabase({ url: adminUrl.replace(/\/[^/]*$/, pathname), maxConnections: 1 })
  const found: string[] = []
  for (const { name } of tables) {
    const [row] = await admin.query<{ n: number }>(
      `select count(*)::int as n from ${name} t where position(lower($1) in lower(t::text)) > 0`,
      [said],
    )
    if (row!.n > 0) found.push(`${name}: ${row!.n}`)
  }
  return found
}

it('what every store has of a patient is erased, acknowledged once, and forgotten but for a keyed hash', async () => {
  const patient = await plant()
  const requestId = await erase(patient)
  expect((await acks(requestId)).map(({ participant, round, rows }) => [participant, round, rows])).toEqual([
    ['attachments', 1, 2n],
    ['billing', 1, 3n],
    ['cache', 1, 3n],
    ['communication', 1, 7n],
    ['dispatch-log', 1, 2n],
    ['events', 1, 1n],
    ['statements', 1, 1n],
    ['virtual-care', 1, 5n],
  ])
  // Ids stand in the outbox until its partitions are dropped, and nothing else of the patient does.
  expect(await whoeverSays(patient.patientId)).toEqual(['virtual_care.outbox: 1'])
  for (const said of [patient.phone, patient.phone.slice(-9), patient.email, patient.nationalId]) {
    expect(await whoeverSays(said)).toEqual([])
  }
  const { app, redis: _ } = world()
  expect(await app.attachments!.list(`${tenantId}/${patient.patientId}/`)).toEqual([])
  expect((await app.redis.keys(`*${patient.patientId}*`)).length).toBe(0)
  // What the law keeps is kept whole: the charge still says what was posted for it.
  expect(await examineDocuments(app.db, {}, undefined)).toEqual([])
})

it('whoever may not order erasures is refused, registered or not', async () => {
  const { app } = world()
  const patient = await plant()
  const { context } = app.config
  const asked = { operator: OPERATOR, tenantId, subjectId: patient.patientId, context }
  const jws = await createOrder(app, asked)
  const hand = async (authorities: string[]) =>
    acceptOrder({ db: app.db, secret: await app.erasureSecret() }, { order: jws, context, authorities })
  await expect(hand(['somebody-else'])).rejects.toMatchObject({
    code: 'ERASURE_ORDER_INVALID',
    message: expect.stringContaining(`${OPERATOR} may not order erasures`),
  })
  await expect(hand([])).rejects.toThrow(/erasure\.authorities is not configured/)
  expect(await hand([OPERATOR])).toMatchObject({ requestId: expect.any(String) })
})

it('a sealed event can be read until its subject is erased, and nothing is sealed for them again', async () => {
  const patient = await plant()
  const secret = await world().app.erasureSecret()
  const of = { tenantId, subjectId: patient.patientId }
  const [event] = await asTenant(world().service, tenantId, (tx) =>
    tx.query<{ contact: { enc: string } }>(
      `select data->'contact' as contact from virtual_care.outbox where subject_id = $1`,
      [patient.patientId],
    ),
  )
  const read = () =>
    asTenant(world().service, tenantId, (tx) => openForSubject(tx, { secret }, of, event!.contact))
  expect(await read()).toMatchObject({ phone: patient.phone })
  await erase(patient)
  await expect(read()).rejects.toMatchObject({ code: 'SUBJECT_ERASED' })
  await expect(
    asTenant(world().service, tenantId, (tx) => sealForSubject(tx, { secret }, of, 'again')),
  ).rejects.toMatchObject({ code: 'SUBJECT_ERASED' })
})

it("another tenant's patient with the same number, and the same tenant's, keep what is theirs", async () => {
  const otherId = await world().tenant()
  const patient = await plant()
  const elsewhere = await plant(otherId, patient.phone)
  const relative = await plant(tenantId, patient.phone)
  await erase(patient)
  const log = (of: string) =>
    asTenant(world().service, of, (tx) =>
      tx.query<{ n: number }>(
        `select count(*)::int as n from communication.dispatch_log
         where communication.recipient_key(recipient) = $1`,
        [patient.phone.slice(-9)],
      ),
    )
  expect(await log(otherId)).toEqual([{ n: 2 }])
  // An attempt that names nobody went to both, and is the erased one's too.
  expect(await log(tenantId)).toEqual([{ n: 1 }])
  for (const { tenantId: of, patientId } of [elsewhere, relative]) {
    const [row] = await asTenant(world().service, of, (tx) =>
      tx.query('select phone from virtual_care.patient where id = $1', [patientId]),
    )
    expect(row).toEqual({ phone: patient.phone })
  }
})

it('a late event is found by the second reading, and erased again by the participant that it concerns alone', async () => {
  const patient = await plant()
  const { requestId } = await order(patient)
  await until(requestId, 'watching')
  await asTenant(world().service, tenantId, (tx) =>
    tx.query(
      `insert into communication.dispatch_log (tenant_id, patient_id, channel, provider, recipient)
       values ($1, $2, 'sms', 'roshan', $3)`,
      [tenantId, patient.patientId, patient.phone],
    ),
  )
  const { findings } = await reconcileErasures(world().app, {
    tenantId,
    signal: AbortSignal.timeout(60_000),
  })
  expect(findings.filter(({ id }) => id === 'erasure/residue').map(({ message }) => message)).toEqual([
    'dispatch-log acknowledged, and has again dispatch_log: 1',
  ])
  await dayLater(requestId)
  await until(requestId, 'watching')
  await dayLater(requestId)
  await until(requestId, 'complete')
  const rounds = (await acks(requestId)).filter(({ round }) => round > 1)
  expect(rounds.map(({ participant, rows }) => [participant, rows])).toEqual([['dispatch-log', 1n]])
})

it('whoever comes back after all is complete is recognised by keyed hash and erased again', async () => {
  const patient = await plant()
  const requestId = await erase(patient)
  await asTenant(world().service, tenantId, async (tx) => {
    await tx.query(
      `insert into virtual_care.patient (tenant_id, id, name, language, phone) values ($1, $2, $3, 'fa-AF', $4)`,
      [tenantId, patient.patientId, patient.name, patient.phone],
    )
    await tx.query(
      `insert into billing.charge (tenant_id, patient_id, amount_minor, currency, code) values ($1, $2, 1, 'AFN', 'RX')`,
      [tenantId, patient.patientId],
    )
  })
  await cachePatient(world().app, patient)
  // Of another who was erased nothing comes back but the number, as somebody typed it.
  const other = await plant()
  await erase(other)
  await asTenant(world().service, tenantId, (tx) =>
    tx.query(
      `insert into communication.dispatch_log (tenant_id, channel, provider, recipient) values ($1, 'sms', 'awcc', $2)`,
      [tenantId, `00${other.phone.slice(1, 6)} ${other.phone.slice(6)}`],
    ),
  )
  const systems = { db: world().db, secret: await world().app.erasureSecret() }
  const returned = await findReturned(systems, { tenantId })
  expect(returned.map(({ place }) => place).sort()).toEqual([
    'communication.dispatch_log.recipient',
    'virtual_care.patient.id',
  ])
  expect(await reopenReturned(systems, returned)).toBe(2)
  // The second time they are under way.
  expect(await reopenReturned(systems, returned)).toBe(0)
  const follows = (await listErasures(world().app, { state: 'unfinished', tenantId })).filter(
    (one) => one.follows,
  )
  expect(follows.map((one) => one.authority)).toEqual([OPERATOR, OPERATOR])
  expect(follows.map((one) => one.follows)).toContain(requestId)
  for (const { id } of follows) {
    await until(id, 'watching')
    await dayLater(id)
    await until(id, 'complete')
  }
  expect(await whoeverSays(patient.phone)).toEqual([])
  expect(await findReturned(systems, { tenantId })).toEqual([])
})

it('two processes that are told of one step do it once, and a round that is over is not done again', async () => {
  const patient = await plant()
  const { app } = world()
  const { requestId } = await order(patient)
  const step = { requestId, tenantId, round: 1, instance: 'here' }
  const [virtualCare, billing] = PARTICIPANTS
  // The second stage is not done before the first, whoever says so.
  expect(await performStep(app, billing!, step)).toEqual({ kind: 'repeated' })
  const outcomes = await Promise.all([1, 2, 3].map(() => performStep(app, virtualCare!, step)))
  expect(outcomes.map(({ kind }) => kind).sort()).toEqual(['done', 'repeated', 'repeated'])
  expect(await performStep(app, virtualCare!, { ...step, round: 2 })).toEqual({ kind: 'repeated' })
  // Under another tenant's name there is no such step.
  expect(await performStep(app, billing!, { ...step, tenantId: randomUUID() })).toEqual({
    kind: 'repeated',
  })
  await until(requestId, 'watching')
})

it('a legal hold keeps what it names, is told, and is no acknowledgement; released, the step is done', async () => {
  const patient = await plant()
  const secret = await world().app.erasureSecret()
  const subject = `subject-${secret.subjectHash(tenantId, patient.patientId).toString('hex').slice(0, 12)}`
  const named = ['--tenant', tenantId, '--patient', patient.patientId]
  const run = async (...argv: string[]) => {
    const { exitCode, envelope } = await runJson(argv, { ...world().env, TABIB_ACTOR: OPERATOR })
    return { exitCode, ...envelope }
  }
  const severe = ['--confirm', subject, '--reason', 'asked in writing']
  const held = await run(
    'erasure',
    'hold',
    ...named,
    '--participant',
    'attachments',
    '--authority',
    'case 4',
    ...severe,
  )
  expect(held).toMatchObject({ exitCode: 0, result: { subject, participants: ['attachments'] } })
  expect(await run('erasure', 'request', ...named)).toMatchObject({
    exitCode: 5,
    error: { code: 'CONFIRMATION_REQUIRED' },
  })
  const requested = await run('erasure', 'request', ...named, ...severe)
  expect(requested).toMatchObject({ exitCode: 0, result: { held: ['attachments'] } })
  const { requestId } = requested.result
  await expect(order(patient)).rejects.toMatchObject({ code: 'NOT_NEEDED' })
  for (let n = 0; n < 400 && (await acks(requestId)).length < PARTICIPANTS.length - 1; n += 1) {
    await erasurePass(world().app)
    await delay(25)
  }
  await erasurePass(world().app)
  expect(await listErasures(world().app, { state: 'open', id: requestId })).toMatchObject([
    { missing: [], held: ['attachments'] },
  ])
  expect(await world().app.attachments!.list(`${tenantId}/${patient.patientId}/`)).toHaveLength(1)
  const release = ['erasure', 'release', held.result.id, '--confirm', held.result.id, '--reason', 'closed']
  expect(await run(...release)).toMatchObject({ exitCode: 0 })
  await until(requestId, 'watching')
  expect(await world().app.attachments!.list(`${tenantId}/${patient.patientId}/`)).toEqual([])
  // The trail is for ever, and names nobody.
  const [trail] = await world().db.query<{ n: number }>(
    `select count(*) filter (where record::text like '%' || $1 || '%')::int as n from tabib.audit`,
    [patient.patientId],
  )
  expect(trail).toEqual({ n: 0 })
})

it('a forged, altered, strange, foreign or repeated order is refused and audited', async () => {
  const { app } = world()
  const patient = await plant()
  const elsewhere = await world().tenant()
  await using api = await world().startApi()
  const post = async (body: object) => {
    const response = await fetch(`${api.url}/api/v1/erasures`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    })
    return { status: response.status, ...((await response.json()) as { code?: string; message?: string }) }
  }
  const { context } = app.config
  const asked = { operator: OPERATOR, tenantId, subjectId: patient.patientId, context }
  const good = await createOrder(app, asked)
  const [header, payload, signature] = good.split('.') as [string, string, string]
  const changed = JSON.parse(Buffer.from(payload, 'base64url').toString())
  const altered = Buffer.from(JSON.stringify({ ...changed, subjectId: randomUUID() })).toString('base64url')
  const strange = JSON.parse(Buffer.from(header, 'base64url').toString())
  const by = (kid: string) => Buffer.from(JSON.stringify({ ...strange, kid })).toString('base64url')
  const none = Buffer.from(JSON.stringify({ ...strange, alg: 'none' })).toString('base64url')
  await world().operator('leaver')
  const left = await createOrder(app, { ...asked, operator: 'leaver' })
  const [leaver] = (await listOperators(app)).filter(({ name }) => name === 'leaver')
  await removeOperator(app, { ...leaver!, least: 1, by: 'test' })
  const refused = [
    left,
    `${header}.${altered}.${signature}`,
    `${by('nobody')}.${payload}.${signature}`,
    `${by('a\u0000b')}.${payload}.${signature}`,
    `${none}.${payload}.`,
    'no order at all',
    await createOrder(app, { ...asked, context: 'elsewhere' }),
    await createOrder(app, { ...asked, lifetimeS: -1 }),
    await createOrder(app, { ...asked, lifetimeS: 90_000 }),
  ]
  for (const order of refused)
    expect(await post({ order })).toMatchObject({ status: 403, code: 'ERASURE_ORDER_INVALID' })
  // Signed by whom we know, for a patient that this tenant does not have.
  const foreign = await createOrder(app, { ...asked, tenantId: elsewhere })
  expect(await post({ order: foreign })).toMatchObject({ status: 404, code: 'NOT_FOUND' })
  expect(await listErasures(app, { state: 'all', tenantId: elsewhere })).toEqual([])
  expect(await post({ order: good })).toMatchObject({ status: 202 })
  expect(await post({ order: good })).toMatchObject({
    status: 403,
    message: expect.stringContaining('used before'),
  })
  const trail = await world().db.query<{ outcome: string; code: string | null; n: number }>(
    `select record->>'outcome' as outcome, record->>'errorCode' as code, count(*)::int as n from tabib.audit
     where record->>'command' = 'POST /api/v1/erasures' and record->>'phase' = 'after' group by 1, 2 order by 2`,
  )
  expect(trail).toEqual([
    { outcome: 'failed', code: 'ERASURE_ORDER_INVALID', n: refused.length + 1 },
    { outcome: 'failed', code: 'NOT_FOUND', n: 1 },
    { outcome: 'ok', code: null, n: 1 },
  ])
})

it('a participant that never answers is told again and again, pages once, and is forgiven when it acknowledges', async () => {
  const patient = await plant()
  const { app, db } = world()
  const { requestId } = await order(patient)
  await db.query(
    `update tabib.erasure_step set state = 'sent', attempts = $2, sent_at = now() - interval '1 hour',
       next_attempt_at = now() + interval '1 hour' where request_id = $1 and stage = 1`,
    [requestId, EXHAUSTED_AFTER],
  )
  expect(await erasurePass(app)).toMatchObject({ exhausted: 1 })
  expect(await erasurePass(app)).toMatchObject({ exhausted: 0 })
  const incidents = () =>
    db.query(
      `select state, occurrences from tabib.incident where dedupe_key = 'communication/C15:virtual-care'`,
    )
  expect(await incidents()).toEqual([{ state: 'open', occurrences: 1 }])
  await db.query(`update tabib.erasure_step set next_attempt_at = now() where request_id = $1`, [requestId])
  await until(requestId, 'watching')
  await erasurePass(app)
  expect(await incidents()).toEqual([{ state: 'resolved', occurrences: 1 }])
})

it('a store that is away keeps its own steps waiting and nobody else', async () => {
  const patient = await plant()
  const { app, redis } = world()
  const { requestId } = await order(patient)
  const step = async (participant: string) => {
    const [row] = await world().db.query<{ state: string; error: string | null }>(
      'select state, last_error as error from tabib.erasure_step where request_id = $1 and participant = $2',
      [requestId, participant],
    )
    return row!
  }
  redis.pause()
  for (let n = 0; n < 600 && (await step('cache')).error === null; n += 1) {
    await erasurePass(app)
    await delay(25)
  }
  expect(await step('cache')).toEqual({ state: 'sent', error: 'REDIS_UNREACHABLE' })
  expect(await step('events')).toEqual({ state: 'done', error: null })
  redis.resume()
  await world().db.query('update tabib.erasure_step set next_attempt_at = now() where request_id = $1', [
    requestId,
  ])
  await until(requestId, 'watching')
})

it('a number in a text about somebody else is found in whatever encoding, told, and let be when it is gone', async () => {
  const tenantId = await world().tenant()
  const patient = await plant(tenantId)
  const other = await plant(tenantId)
  await erase(patient)
  const said = Buffer.from(`her sister's number is ${patient.phone}`).toString('base64')
  await asTenant(world().service, tenantId, (tx) =>
    tx.query(`insert into virtual_care.encounter_note (tenant_id, patient_id, body) values ($1, $2, $3)`, [
      tenantId,
      other.patientId,
      said,
    ]),
  )
  const { app, db } = world()
  const signal = AbortSignal.timeout(60_000)
  const { findings } = await reconcileErasures(app, { tenantId, scan: true, signal })
  expect(findings.map(({ id, message }) => [id, message])).toEqual([
    ['erasure/content', '1 times virtual_care.encounter_note says their phone'],
  ])
  const incidents = () =>
    db.query(`select state from tabib.incident where dedupe_key = $1`, [
      `communication/C15/content:${tenantId}`,
    ])
  await tellContent(app, await scanContent(app, { tenantId, signal }))
  expect(await incidents()).toEqual([{ state: 'open' }])
  await asTenant(world().service, tenantId, (tx) =>
    tx.query(`update virtual_care.encounter_note set body = '' where body = $1`, [said]),
  )
  await tellContent(app, await scanContent(app, { tenantId, signal }))
  expect(await incidents()).toEqual([{ state: 'resolved' }])
})
