import { randomUUID } from 'node:crypto'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { deflateSync, gzipSync } from 'node:zlib'
import { compactVerify, createLocalJWKSet, type JSONWebKeySet } from 'jose'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openAttachments } from '../../src/adapters/attachments/client.ts'
import { addOperator } from '../../src/domain/approval/operator.ts'
import {
  CERTIFICATE_PURPOSE,
  certificateSchema,
  verifyCertificate,
} from '../../src/domain/erasure/certificate.ts'
import { acceptOrder, createOrder } from '../../src/domain/erasure/order.ts'
import { findParticipant, PARTICIPANTS } from '../../src/domain/erasure/participants.ts'
import { performStep } from '../../src/domain/erasure/perform.ts'
import { findSubject, stateErasures } from '../../src/domain/erasure/prove.ts'
import { recallBound } from '../../src/domain/erasure/recall.ts'
import { rememberErasures } from '../../src/domain/erasure/remember.ts'
import { erasurePass } from '../../src/domain/erasure/saga.ts'
import { asTenant } from '../../src/domain/sessions/tenant.ts'
import type { PlantedPatient } from '../../src/sandbox/patients.ts'
import { ensureKey } from '../../src/sandbox/visit.ts'
import { runJson } from '../support/line.ts'
import { useWorld } from '../support/world.ts'

const world = useWorld()
const OPERATOR = 'privacy-officer'
let folder: string
let tenantId: string
let patients: PlantedPatient[]
let jwks: string

beforeAll(async () => {
  const { app } = world()
  folder = await mkdtemp(join(tmpdir(), 'tabib-certificate-'))
  const { publicJwk } = await (await app.keyStore()).generate('ES256')
  await addOperator(app, { name: OPERATOR, publicJwk, by: 'test' })
  await ensureKey(app, CERTIFICATE_PURPOSE)
  tenantId = await world().tenant()
  patients = await world().patients({ tenantId, count: 3 })
  // Another tenant's patient has the same number.
  await world().patients({
    tenantId: await world().tenant(),
    count: 1,
    seed: 2,
    phone: () => patients[0]!.phone,
  })
  // A brother has the address of the family.
  await world().service.transaction(async (tx) => {
    await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
    await tx.query('update virtual_care.patient set email = $1 where id = $2', [
      patients[0]!.email.toUpperCase(),
      patients[1]!.patientId,
    ])
  })
  const keys = await runJson(['keys', 'jwks', '--purpose', CERTIFICATE_PURPOSE], world().env)
  jwks = join(folder, 'keys.json')
  await writeFile(jwks, JSON.stringify((keys.envelope as { result: object }).result))
}, 60_000)
afterAll(async () => {
  await rm(folder, { recursive: true })
})

async function accept({ patientId }: PlantedPatient): Promise<string> {
  const { app } = world()
  const { context } = app.config
  const order = await createOrder(app, { operator: OPERATOR, tenantId, subjectId: patientId, context })
  const { requestId } = await acceptOrder(
    { db: app.db, secret: await app.erasureSecret() },
    { order, context, authorities: [OPERATOR] },
  )
  await rememberErasures(app)
  return requestId
}

/** Every step, and what the saga does after them; the 24 hours are over at once. */
async function complete(requestId: string): Promise<void> {
  const { app } = world()
  for (const participant of PARTICIPANTS) {
    await performStep(app, participant, { requestId, tenantId, round: 1, instance: 'test' })
  }
  await erasurePass(app)
  await app.db.query(
    `update tabib.erasure_request set watch_until = clock_timestamp() where id = $1 and state = 'watching'`,
    [requestId],
  )
  await erasurePass(app)
}

// biome-ignore lint/suspicious/noExplicitAny: an envelope is what the test says of it
type Envelope = any
const prove = async (...argv: string[]): Promise<{ exitCode: number | null; envelope: Envelope }> =>
  runJson(['erasure', 'prove', ...argv], world().env)
/** Without a server: nothing of the platform is in its environment. */
const verify = (file: string, keys = jwks): Promise<{ exitCode: number; envelope: Envelope }> =>
  runJson(['erasure', 'verify', file, '--jwks', keys], {})

test('nothing is signed as complete while anything is open, and what is open is said', async () => {
  const requestId = await accept(patients[0]!)
  const refused = await prove(requestId)
  expect(refused).toMatchObject({ exitCode: 5, envelope: { error: { code: 'ERASURE_OPEN' } } })
  const what = refused.envelope.error.context.open.map((one: { what: string }) => one.what)
  expect(what.filter((one: string) => one === 'step')).toHaveLength(PARTICIPANTS.length)
  expect(what).toContain('residue')

  const interim = await prove(requestId, '--interim')
  expect(interim).toMatchObject({ exitCode: 1, envelope: { status: 'findings' } })
  expect(interim.envelope.result[0].statement).toMatchObject({
    outcome: 'open',
    deadline: { days: 30, met: true },
  })
})

test('a complete erasure has a certificate that holds without any server, and tells nobody who it is of', async () => {
  const [erased] = patients as [PlantedPatient]
  const [{ id: requestId }] = (await world().db.query<{ id: string }>(
    'select id from tabib.erasure_request',
  )) as [{ id: string }]
  await complete(requestId)
  const file = join(folder, 'certificate.jws')
  const proved = await prove(requestId, '--file', file)
  expect(proved.envelope.error).toBeUndefined()
  expect(proved.exitCode).toBe(0)

  const certificate = (await readFile(file, 'utf8')).trim()
  const set = createLocalJWKSet(JSON.parse(await readFile(jwks, 'utf8')) as JSONWebKeySet)
  const { payload } = await compactVerify(certificate, set)
  const text = Buffer.from(payload).toString()
  for (const personal of [
    erased.patientId,
    erased.phone,
    erased.phone.slice(4),
    erased.name,
    erased.email,
    erased.nationalId,
  ]) {
    expect(text).not.toContain(personal)
  }
  const statement = certificateSchema.parse(JSON.parse(text))
  expect(statement).toMatchObject({ outcome: 'complete', open: [], holds: [], rows: expect.any(Number) })
  expect(statement.rows).toBeGreaterThan(20)
  expect(statement.requests[0]!.steps.map(({ participant }) => participant).sort()).toEqual(
    PARTICIPANTS.map(({ id }) => id).sort(),
  )
  for (const step of statement.requests[0]!.steps) {
    expect(step).toMatchObject({
      state: 'done',
      position: expect.any(String),
      rereadAfterWatchAt: expect.any(String),
    })
  }
  expect(statement.coverage.participants.every(({ acknowledged }) => acknowledged)).toBe(true)
  expect(statement.gaps).toContain(
    'an identifier of kind e-mail is another patient’s as well, and was not searched for',
  )
  const { canaries, ...scan } = statement.scan
  expect(scan).toMatchObject({
    hits: [],
    cutShort: 0,
    searchedFor: { phone: 2, 'e-mail': 1, 'national-id': 1 },
  })
  expect(scan.rows).toBeGreaterThan(30)
  expect(canaries.planted).toBeGreaterThan(300)
  expect(canaries.lowerBound).toBeGreaterThan(0.98)

  expect(await verify(file)).toMatchObject({ exitCode: 0, envelope: { result: [{ outcome: 'complete' }] } })
  const keys = JSON.parse(await readFile(jwks, 'utf8'))
  await expect(verifyCertificate(certificate, { ...keys, revoked: [keys.keys[0].kid] })).rejects.toThrow(
    /is revoked/,
  )
  await expect(verifyCertificate(keys.probes[0], keys)).rejects.toThrow(/it is a "tabib-probe\+jws"/)
  const [header, , signature] = certificate.split('.')
  const other = Buffer.from(JSON.stringify({ ...statement, rows: 1 })).toString('base64url')
  await writeFile(join(folder, 'changed.jws'), [header, other, signature].join('.'))
  expect(await verify(join(folder, 'changed.jws'))).toMatchObject({
    exitCode: 4,
    envelope: { error: { code: 'CERTIFICATE_INVALID' } },
  })
  await writeFile(join(folder, 'none.json'), '{"keys":[]}')
  expect((await verify(file, join(folder, 'none.json'))).envelope.error.message).toMatch(/not in the set/)
})

test('a store that was not read keeps the certificate back, and so does an id that is there again', async () => {
  const [erased] = patients as [PlantedPatient]
  const { app, owner } = world()
  await owner.query(
    `create table public.import (line text); create table public.guarded (tenant_id uuid, line text);
     alter table public.guarded enable row level security; grant select on public.guarded to tabib_auditor`,
  )
  // An appointment that a late event made has the id and nothing else of the patient.
  await asTenant(world().service, tenantId, (tx) =>
    tx.query(
      `insert into virtual_care.appointment (id, tenant_id, patient_id, starts_at, status)
       values (gen_random_uuid(), $1, $2, clock_timestamp(), 'booked')`,
      [tenantId, erased.patientId],
    ),
  )
  const [statement] = await stateErasures(
    { db: app.db, erasureSecret: app.erasureSecret, nats: undefined, redis: {}, attachments: undefined },
    {
      subjects: [await findSubject(app, { named: erased.patientId, tenantId })],
      ...{ version: '0.0.0', context: 'test', signal: AbortSignal.timeout(30_000) },
    },
  )
  expect(statement!.outcome).toBe('open')
  const found = statement!.open.filter(({ what }) => what !== 'inventory')
  expect(found.map(({ what, detail }) => `${what}: ${detail}`).sort()).toEqual([
    'returned: virtual_care.appointment.patient_id is of the subject again',
    'unread: JetStream could not be read: no NATS is configured',
    'unread: Redis could not be read: none is configured',
    'unread: attachments could not be read: rows name some, and erasure.attachments is not configured',
    'unread: public.guarded could not be read: row-level security shows this login none of its rows',
    'unread: public.import could not be read: this login may not read line',
  ])
  await owner.query('drop table public.import, public.guarded')
  await asTenant(world().service, tenantId, (tx) =>
    tx.query('update virtual_care.appointment set patient_id = gen_random_uuid() where patient_id = $1', [
      erased.patientId,
    ]),
  )
})

test('what is left where nobody looks for it keeps the certificate back', async () => {
  const [erased, witness] = patients as [PlantedPatient, PlantedPatient]
  const hidden = Buffer.from(`{"re":"call ${erased.phone}"}`).toString('base64')
  await world().service.transaction(async (tx) => {
    await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
    await tx.query(`update virtual_care.encounter_note set body = $1 where patient_id = $2`, [
      `imported: ${hidden}`,
      witness.patientId,
    ])
  })
  const { redis } = world().app
  await redis.set(`session:draft`, gzipSync(`{"to":"${erased.phone}"}`))
  await redis.hset('session:form', 'sent', gzipSync(`{"to":"${erased.phone}"}`))
  await redis.zadd('session:callers', erased.phone.slice(1), 'somebody')
  await redis.rpush(Buffer.concat([Buffer.from('session:\xff', 'latin1'), Buffer.from(erased.phone)]), 'x')
  const { nats } = world().app
  const subject = 'communication.evt.thread.note'
  const headers = new Map([['reply-to', erased.phone]])
  await nats.store({ subject, messageId: randomUUID(), headers, payload: Buffer.from('{}') })
  // Another tenant's own number is theirs.
  await redis.set(`session:${await world().tenant()}`, erased.phone)
  await world().app.attachments!.put(
    `${tenantId}/${witness.patientId}/referral.bin`,
    Buffer.concat([Buffer.alloc(100_000, 'x\n'), deflateSync(`{"call":"${erased.phone}"}`)]),
  )
  const secret = await world().app.erasureSecret()
  const named = `subject-${secret.subjectHash(tenantId, erased.patientId).toString('hex').slice(0, 12)}`
  const { exitCode, envelope } = await prove(named)
  expect(exitCode).toBe(5)
  const open = envelope.error.context.open as { what: string; detail: string }[]
  expect(open.map(({ what, detail }) => `${what}: ${detail.split(/[ :*]/)[0]}`).sort()).toEqual([
    // Nobody has said what lies under such keys.
    'inventory: session',
    'inventory: session',
    'residue: Redis',
    'residue: attachments',
    'residue: communication-evt',
    'residue: virtual_care.encounter_note',
  ])
  expect(open.find(({ detail }) => detail.startsWith('Redis'))?.detail).toContain('in 4 places')
  expect(await redis.unlink(await redis.keysBuffer('session:*'))).toBe(5)
  expect(JSON.stringify(envelope)).not.toContain(erased.phone.slice(4))
})

test('a legal hold is said, and is no completion', async () => {
  const held = patients[2]!
  const secret = await world().app.erasureSecret()
  await world().db.query(
    `insert into tabib.erasure_hold (tenant_id, subject_hash, participants, authority, placed_by)
     values ($1, $2, '{billing}', 'case 12/1405', 'legal')`,
    [tenantId, secret.subjectHash(tenantId, held.patientId)],
  )
  await complete(await accept(held))
  const { envelope } = await prove(held.patientId, '--tenant', tenantId, '--interim')
  expect(envelope.result[0].statement).toMatchObject({
    outcome: 'open',
    holds: [{ authority: 'case 12/1405', participants: ['billing'] }],
  })
  expect(envelope.result[0].statement.open).toContainEqual(expect.objectContaining({ what: 'legal hold' }))
  expect((await prove('0193e3a1-5f0e-7c11-9a52-6f1a2b3c4d5e')).envelope.error.code).toBe('NOT_FOUND')
})

test('a participant whose store is not configured, or not mounted, acknowledges nothing', async () => {
  const { app } = world()
  const [patient] = (await world().patients({ tenantId, count: 1, seed: 9 })) as [PlantedPatient]
  const step = { requestId: await accept(patient), tenantId, round: 1, instance: 'test' }
  const [first, files] = ['virtual-care', 'attachments'].map((id) => findParticipant(id)!)
  await performStep(app, first!, step)
  const { db, redis, config, fetch, erasureSecret } = app
  const attempt = (attachments: typeof app.attachments) =>
    performStep({ db, redis, config, fetch, erasureSecret, attachments }, files!, step)
  await expect(attempt(openAttachments({ folder: join(folder, 'gone') }))).rejects.toMatchObject({
    code: 'ATTACHMENTS_UNREACHABLE',
  })
  await expect(attempt(undefined)).rejects.toMatchObject({ code: 'CONFIG_INVALID' })
  const left = await app.attachments!.list(`${tenantId}/${patient.patientId}/`)
  expect(left).toHaveLength(1)
  expect(await attempt(app.attachments)).toMatchObject({ kind: 'done' })
})

test('the bound of a recall is the exact one', () => {
  // Published values of Clopper and Pearson's interval, one-sided, 95 %.
  expect(recallBound(10, 10)).toBeCloseTo(0.74113, 4)
  expect(recallBound(9, 10)).toBeCloseTo(0.60584, 4)
  expect(recallBound(0, 10)).toBe(0)
  expect(recallBound(600, 600)).toBeCloseTo(0.05 ** (1 / 600), 6)
})
