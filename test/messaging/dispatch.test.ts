import { randomUUID } from 'node:crypto'
import { beforeAll, expect, test } from 'vitest'
import { acceptOrder, createOrder } from '../../src/domain/erasure/order.ts'
import { findParticipant } from '../../src/domain/erasure/participants.ts'
import { performStep } from '../../src/domain/erasure/perform.ts'
import { dispatchDue } from '../../src/domain/messaging/dispatch-due.ts'
import { publishTemplate } from '../../src/domain/messaging/publish.ts'
import { MESSAGE_PATH, requestMessage } from '../../src/domain/messaging/request-message.ts'
import { watchMessages } from '../../src/domain/messaging/waiting.ts'
import { asTenant } from '../../src/domain/sessions/tenant.ts'
import type { PlantedPatient } from '../../src/sandbox/patients.ts'
import type { MessagingProviders } from '../../src/sandbox/simulators/messaging.ts'
import { runJson } from '../support/line.ts'
import { useWorld } from '../support/world.ts'

const world = useWorld()
const OPERATOR = 'privacy-officer'
const WHEN = '2026-12-01T09:00:00+04:30'
let providers: MessagingProviders
let tenantId: string
let seed = 0

beforeAll(async () => {
  providers = await world().messagingProviders()
  tenantId = await world().tenant()
  await world().operator(OPERATOR)
  for (const channel of ['sms', 'push', 'email'] as const) {
    const variables = { at: 'time' } as const
    const template = { id: `by-${channel}`, channel, category: `by-${channel}`, subject: 'Clinic' }
    await publishTemplate(world(), { ...template, body: 'Come at {at}.', variables }, 'test')
  }
})

async function somebody(): Promise<PlantedPatient> {
  const [patient] = await world().patients({ tenantId, count: 1, seed: ++seed })
  await asTenant(world().service, tenantId, (tx) =>
    tx.query('update communication.contact set push_token = $2 where person_id = $1', [
      patient!.patientId,
      `device ${patient!.patientId}`,
    ]),
  )
  return patient!
}

/** Asks for a message as the API does; the preflight makes the same of it when it is drained. */
async function ask(
  { patientId }: { patientId: string },
  channel: string,
  asked: object = {},
): Promise<string> {
  const key = randomUUID()
  const call = { service: 'communication', tenantId, route: `POST ${MESSAGE_PATH}`, key } as const
  const message = { patientId, channel, template: `by-${channel}`, variables: { at: WHEN }, ...asked }
  const { body } = await requestMessage(
    { db: world().db, erasureSecret: world().app.erasureSecret, preflight: undefined },
    { ...call, fingerprint: Buffer.from(key) },
    message,
  )
  return JSON.parse(body).id
}

const dispatch = () => dispatchDue(world().app, { limit: 100 })

const row = async (id: string) => {
  const [found] = await asTenant(world().service, tenantId, (tx) =>
    tx.query<Record<string, unknown>>(
      `select m.patient_id as "patientId", m.status, m.variables, m.recipient, m.last_error as error,
         (select json_agg(json_build_object('to', recipient, 'said', response) order by attempted_at)
          from communication.dispatch_log l where l.message_id = m.id) as attempts
       from communication.message m where id = $1`,
      [id],
    ),
  )
  return found!
}

const dueNow = () =>
  world().db.query(
    `update communication.message set due_at = now() where status = 'queued' and due_at > now() and attempts > 0`,
  )

test('a message that is asked for goes to its patient by the channel, once it is due, and its attempt is on record', async () => {
  const patient = await somebody()
  const before = providers.arrived.length
  const ids = [await ask(patient, 'sms'), await ask(patient, 'push'), await ask(patient, 'email')]
  const later = await ask(patient, 'sms', { dueAt: new Date(Date.now() + 3_600_000).toISOString() })
  expect(await dispatch()).toEqual({ sent: 3, postponed: 0, failed: 0, cancelled: 0 })
  expect(await dispatch()).toMatchObject({ sent: 0 })
  const arrived = providers.arrived.slice(before)
  expect(arrived.map(({ channel, to, body }) => [channel, to, body]).sort()).toEqual([
    ['email', patient.email, 'Come at 1 Dec 2026, 09:00.'],
    ['push', `device ${patient.patientId}`, 'Come at 1 Dec 2026, 09:00.'],
    ['sms', patient.phone, 'Come at 1 Dec 2026, 09:00.'],
  ])
  for (const id of ids) {
    expect(await row(id)).toMatchObject({
      status: 'sent',
      error: null,
      attempts: [{ to: expect.any(String), said: expect.stringMatching(/^sent as /) }],
    })
  }
  expect(await row(later)).toMatchObject({ status: 'queued', attempts: null })
})

test('what a provider refuses for now is sent later, what it or the guard refuses for good is not', async () => {
  const patient = await somebody()
  const id = await ask(patient, 'sms')
  providers.answer(503)
  expect(await dispatch()).toMatchObject({ postponed: 1 })
  expect(await dispatch()).toMatchObject({ postponed: 0 })
  expect(await row(id)).toMatchObject({ status: 'queued', error: 'PROVIDER_UNREACHABLE' })
  providers.answer(400)
  const refused = await ask(patient, 'push')
  expect(await dispatch()).toMatchObject({ failed: 1 })
  providers.answer(200)
  await dueNow()
  expect(await dispatch()).toMatchObject({ sent: 1 })
  expect(await row(id)).toMatchObject({ status: 'sent', attempts: [{ said: 'PROVIDER_UNREACHABLE' }, {}] })
  expect(await row(refused)).toMatchObject({ status: 'failed', error: 'PROVIDER_UNREACHABLE' })
  const other = await somebody()
  for (const [asked, error] of [
    [{ variables: {} }, 'MESSAGE_INVALID'],
    [{ patientId: randomUUID() }, 'NOT_FOUND'],
  ] as const) {
    const id = await ask(other, 'sms', asked)
    await dispatch()
    expect(await row(id)).toMatchObject({ status: 'failed', error, attempts: null })
  }
})

test('what is of a halted category waits unclaimed, for that tenant, and goes out once it is resumed', async () => {
  const patient = await somebody()
  const leak = await ask(patient, 'push', { variables: { at: patient.phone } })
  expect(await dispatch()).toMatchObject({ failed: 1 })
  expect(await row(leak)).toMatchObject({ status: 'failed', error: 'PATIENT_DATA_REFUSED' })
  const waits = await ask(patient, 'push')
  const goes = await ask(patient, 'sms')
  expect(await dispatch()).toEqual({ sent: 1, postponed: 0, failed: 0, cancelled: 0 })
  expect([(await row(waits)).status, (await row(goes)).status]).toEqual(['queued', 'sent'])
  await world().db.query(
    `update communication.category_halt set resumed_at = now(), resumed_by = 'test' where tenant_id = $1`,
    [tenantId],
  )
  expect(await dispatch()).toMatchObject({ sent: 1 })
})

test('a message is tried until it expires; a provider that takes none pages once, and what it refused is counted', async () => {
  const { app } = world()
  const patient = await somebody()
  const watch = () => watchMessages(app, { maxAgeMs: 3_600_000, signal: AbortSignal.timeout(10_000) })
  const soon = new Date(Date.now() + 60_000).toISOString()
  const ids = [
    await ask(patient, 'sms', { expiresAt: soon }),
    await ask(patient, 'sms'),
    await ask(patient, 'sms'),
  ]
  const late = await ask(patient, 'sms', { expiresAt: new Date(Date.now() - 1_000).toISOString() })
  providers.answer(503)
  expect(await dispatch()).toMatchObject({ postponed: 3 })
  expect(await watch()).toEqual({ expired: 1, opened: 0, closed: 0 })
  // Twenty minutes pass for the first two, and an hour for the third, which has no end of its own.
  const passed = (minutes: number, of: string[]) =>
    app.db.query(
      `update communication.message set first_tried_at = first_tried_at - make_interval(mins => $2),
         expires_at = expires_at - make_interval(mins => $2), due_at = now() where id = any($1)`,
      [of, minutes],
    )
  await passed(20, ids.slice(0, 2))
  await passed(61, ids.slice(2))
  expect(await watch()).toEqual({ expired: 2, opened: 1, closed: 0 })
  expect(await watch()).toEqual({ expired: 0, opened: 0, closed: 0 })
  const [incident] = await app.db.query<{ title: string; n: number }>(
    `select title, count(*) over ()::int as n from tabib.incident where mode = 'tabib/messages-waiting'`,
  )
  expect(incident).toEqual({ n: 1, title: 'sms: 1 messages are not taken, the first for 20 min' })
  expect([...ids, late].length).toBe(4)
  for (const [id, status] of [
    [ids[0], 'expired'],
    [ids[1], 'queued'],
    [ids[2], 'expired'],
    [late, 'expired'],
  ])
    expect(await row(id!)).toMatchObject({ status })
  const { exitCode, envelope } = await runJson(['messaging', 'status'], world().env)
  expect(exitCode).toBe(1)
  expect(envelope).toMatchObject({
    result: {
      messages: expect.arrayContaining([
        expect.objectContaining({
          ...{ channel: 'sms', category: 'by-sms', scheduled: 1, waiting: 1, refused: 1, expired: 3 },
          errors: ['PROVIDER_UNREACHABLE'],
        }),
      ]),
    },
  })
  expect(JSON.stringify(envelope)).not.toContain(patient.phone.slice(-7))
  providers.answer(200)
  expect(await dispatch()).toMatchObject({ sent: 1 })
  expect(await watch()).toEqual({ expired: 0, opened: 0, closed: 1 })
})

test('nobody who is erased is written to, whether asked for before or after, and the message names nobody any more', async () => {
  const patient = await somebody()
  const before = await ask(patient, 'sms', { dueAt: new Date(Date.now() + 3_600_000).toISOString() })
  const waiting = await ask(patient, 'sms')
  const { app } = world()
  const secret = await app.erasureSecret()
  const { context } = app.config
  const asks = { operator: OPERATOR, tenantId, subjectId: patient.patientId, context }
  const order = await createOrder(app, asks)
  const { requestId } = await acceptOrder({ db: app.db, secret }, { order, context, authorities: [OPERATOR] })
  const arrived = providers.arrived.length
  // Accepted, and no participant has begun.
  expect(await dispatch()).toMatchObject({ cancelled: 1, sent: 0 })
  await expect(ask(patient, 'sms')).rejects.toMatchObject({ code: 'SUBJECT_ERASED' })
  const step = { requestId, tenantId, round: 1, instance: 'test' }
  for (const id of ['virtual-care', 'communication'])
    expect(await performStep(app, findParticipant(id)!, step)).toMatchObject({ kind: 'done' })
  // A service that did not ask.
  const after = randomUUID()
  await asTenant(world().service, tenantId, (tx) =>
    tx.query(
      `insert into communication.message (id, tenant_id, patient_id, channel, template, status, variables)
       values ($1, $2, $3, 'email', 'by-email', 'queued', '{"at":"now"}')`,
      [after, tenantId, patient.patientId],
    ),
  )
  expect(await dispatch()).toMatchObject({ cancelled: 1 })
  const gone = { patientId: secret.pseudonym(tenantId, patient.patientId), variables: {}, recipient: null }
  for (const id of [before, waiting, after])
    expect(await row(id)).toMatchObject({ ...gone, status: 'cancelled', attempts: null })
  expect(providers.arrived.length).toBe(arrived)
})

test('a worker that is killed wherever it is loses no message and sends none twice', async () => {
  const patients = await Promise.all(Array.from({ length: 20 }, somebody))
  const before = { arrived: providers.arrived.length, taken: providers.taken }
  for (const patient of patients) for (const channel of ['sms', 'push', 'email']) await ask(patient, channel)
  for (const kill of [5, 30]) {
    await using worker = world().spawn(['worker', 'run', 'message-dispatch'])
    await providers.hangAt(before.taken + kill)
    worker.signal('SIGKILL')
    await worker.exited
    providers.answer(200)
    // Claims of the dead end after two minutes.
    await dueNow()
  }
  expect((await dispatch()).postponed).toBe(0)
  const [left] = await world().db.query(
    `select count(*)::int as queued from communication.message where tenant_id = $1 and status = 'queued'
       and patient_id = any($2)`,
    [tenantId, patients.map(({ patientId }) => patientId)],
  )
  expect(left).toEqual({ queued: 0 })
  const arrived = providers.arrived.slice(before.arrived).map(({ channel, to }) => `${channel} ${to}`)
  expect(arrived.length).toBe(60)
  expect(providers.taken - before.taken).toBeGreaterThan(60)
  expect(new Set(arrived).size).toBe(60)
})
