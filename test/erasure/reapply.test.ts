import { randomUUID } from 'node:crypto'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { serve } from '../../src/api/server.ts'
import { type App, createApp, createLogger } from '../../src/app.ts'
import { loadConfig } from '../../src/config.ts'
import { addOperator } from '../../src/domain/approval/operator.ts'
import { acceptOrder, createOrder } from '../../src/domain/erasure/order.ts'
import { PARTICIPANTS } from '../../src/domain/erasure/participants.ts'
import { performStep } from '../../src/domain/erasure/perform.ts'
import { ERASURE_STREAM, rememberErasures } from '../../src/domain/erasure/remember.ts'
import { openRequest } from '../../src/domain/erasure/request.ts'
import { dumpDatabase, restoreDatabase } from '../../src/sandbox/backup.ts'
import type { PlantedPatient } from '../../src/sandbox/patients.ts'
import { startWorkers, thisInstance } from '../../src/worker.ts'
import { runJson, runLine } from '../support/line.ts'
import { useWorld } from '../support/world.ts'

const world = useWorld()
const OPERATOR = 'privacy-officer'
let folder: string
let tenantId: string
let patients: PlantedPatient[]
/** The backup: of a time when nobody was erased yet. */
let dump: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tabib-restore-'))
  await chmod(folder, 0o755)
  tenantId = await world().tenant()
  patients = await world().patients({ tenantId, count: 5 })
  dump = join(folder, 'backup')
  const [, name] = /\/([^/]+)$/.exec(world().env.TABIB_DATABASE_URL!)!
  await dumpDatabase({ adminUrl: world().postgres.adminUrl, database: name!, file: dump })
  // Registered after the backup: the restored database does not know them.
  const keyStore = await world().app.keyStore()
  const { publicJwk } = await keyStore.generate('ES256')
  await addOperator(world().app, { name: OPERATOR, publicJwk, by: 'test' })
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
  return requestId
}

/** Does what is due, without workers. */
async function erase(requestId: string): Promise<void> {
  for (const participant of PARTICIPANTS) {
    await performStep(world().app, participant, { requestId, tenantId, round: 1, instance: 'test' })
  }
}

/** The backup in a database of its own, as an operator restores it. */
async function restore(): Promise<{ name: string; env: Record<string, string>; app: App } & AsyncDisposable> {
  const { name } = await world().postgres.createDatabase()
  await restoreDatabase({ adminUrl: world().postgres.adminUrl, database: name, file: dump })
  const env = { ...world().env, TABIB_DATABASE_URL: world().postgres.url('tabib', name) }
  const app = createApp(loadConfig({ env, cwd: folder }), { log: createLogger('silent') })
  return {
    name,
    env,
    app,
    async [Symbol.asyncDispose]() {
      await app[Symbol.asyncDispose]()
      await world().postgres.dropDatabase(name)
    },
  }
}

async function readyz(app: App): Promise<{ status: number; reasons: Record<string, string> }> {
  await using server = await serve(app, startWorkers(app, [], thisInstance('test')), {
    host: '127.0.0.1',
    port: 0,
  })
  const answer = await fetch(`${server.url}/readyz`)
  return { status: answer.status, ...((await answer.json()) as { reasons: Record<string, string> }) }
}

const reapply = (env: Record<string, string>, ...argv: string[]) =>
  runJson(['erasure', 'reapply', ...argv], { ...world().env, ...env })

/** How many rows of the platform still tell of a patient by name or number. */
async function told(app: App, { patientId, phone }: PlantedPatient): Promise<number> {
  const [row] = await app.db.transaction(async (tx) => {
    await tx.query(
      `select set_config('role', 'tabib_erasure', true), set_config('app.tenant_id', $1, true)`,
      [tenantId],
    )
    return tx.query<{ n: number }>(
      `select ((select count(*) from virtual_care.patient where id = $1)
         + (select count(*) from virtual_care.encounter_note where patient_id = $1)
         + (select count(*) from billing.payer where patient_id = $1 and phone = $2)
         + (select count(*) from communication.dispatch_log where recipient = $2)
         + (select count(*) from communication.thread_message where body like '%' || $2 || '%'))::int as n`,
      [patientId, phone],
    )
  })
  return row!.n
}

test('a restored database takes no traffic until the list is re-applied, and then has none of the erased', async () => {
  const { app } = world()
  const [erased, held, another, stranger] = patients as [
    PlantedPatient,
    PlantedPatient,
    PlantedPatient,
    PlantedPatient,
  ]
  await erase(await accept(erased))
  const secret = await app.erasureSecret()
  await app.db.query(
    `insert into tabib.erasure_hold (tenant_id, subject_hash, authority, placed_by) values ($1, $2, 'case 12/1405', 'legal')`,
    [tenantId, secret.subjectHash(tenantId, held.patientId)],
  )
  await erase(await accept(held))
  await erase(await accept(another))
  expect(await rememberErasures(app)).toMatchObject({ behind: 0 })
  expect((await readyz(app)).status).toBe(200)

  await using restored = await restore()
  expect(await told(restored.app, erased)).toBeGreaterThan(4)
  const before = await readyz(restored.app)
  expect(before.status).toBe(503)
  expect(before.reasons.erasures).toMatch(
    /restored to a time before 4 or more entries.*tabib erasure reapply/,
  )

  // The erased are patients again, and are not written to.
  const sending = await runLine(['worker', 'run', 'message-dispatch', '--once', '--json'], restored.env)
  expect(sending.stdout).toContain('restored to a time before 4 or more entries')
  expect(sending.exitCode).not.toBe(0)

  // Somebody hands in again the order for one of them.
  const [handedIn] = await app.db.query<{ jti: string; digest: string }>(
    `select order_jti as jti, encode(order_digest, 'hex') as digest from tabib.erasure_request where subject_hash = $1`,
    [secret.subjectHash(tenantId, another.patientId)],
  )
  const again = { tenantId, subjectId: another.patientId, authority: OPERATOR, order: handedIn! }
  await openRequest({ db: restored.app.db, secret }, again)

  // Nothing is done by looking.
  const plan = await reapply(restored.env, '--dry-run')
  expect(plan.envelope.result.plan).toMatchObject({
    database: restored.name,
    missing: { request: 2, hold: 1, release: 0 },
    returned: 3,
  })
  expect(JSON.stringify(plan)).not.toContain(erased.patientId)
  expect((await reapply(restored.env)).envelope.error.code).toBe('CONFIRMATION_REQUIRED')
  expect((await readyz(restored.app)).status).toBe(503)

  const urlFile = join(folder, 'restored.url')
  await writeFile(urlFile, restored.env.TABIB_DATABASE_URL!)
  const severe = ['--confirm', restored.name, '--reason', 'restored from the backup of 03:00']
  const done = await reapply({}, '--database-url-file', urlFile, ...severe)
  expect(done.stderr).not.toContain(erased.patientId)
  expect(done).toMatchObject({
    exitCode: 0,
    envelope: { result: { missing: { request: 2, hold: 1 }, erased: 2, held: 1, left: 0, failed: {} } },
  })
  expect(await readyz(restored.app)).toMatchObject({ status: 200, reasons: {} })
  expect(await told(restored.app, erased)).toBe(0)
  expect(await told(restored.app, another)).toBe(0)
  expect(await told(restored.app, held)).toBeGreaterThan(4)
  expect(await told(restored.app, stranger)).toBeGreaterThan(4)

  const second = await reapply(restored.env, ...severe)
  expect(second).toMatchObject({
    exitCode: 0,
    envelope: { result: { plan: { missing: { request: 0 }, open: 0 } } },
  })
  const trail = await restored.app.db.query<{ reason: string }>(
    `select record->>'reason' as reason from tabib.audit where record->>'command' = 'erasure reapply'`,
  )
  expect(trail.map(({ reason }) => reason)).toEqual([severe[3], severe[3]])
}, 90_000)

test('killed wherever it is, it is run again and comes to the same', async () => {
  await using restored = await restore()
  const severe = ['--confirm', restored.name, '--reason', 'restored']
  const acks = async () => (await restored.app.db.query('select from tabib.erasure_ack')).length
  const requests = async () => (await restored.app.db.query('select from tabib.erasure_request')).length
  for (const reached of [async () => (await requests()) > 1, async () => (await acks()) > 3]) {
    await using killed = world().spawn(['erasure', 'reapply', ...severe], { env: restored.env })
    let ended = false
    void killed.exited.then(() => {
      ended = true
    })
    while (!ended && !(await reached()));
    killed.signal('SIGKILL')
    await killed.exited
    // Its lock runs out by itself; nobody waits for that here.
    await restored.app.db.query('delete from tabib.operation_lock')
  }
  expect((await readyz(restored.app)).status).toBe(503)
  expect(await reapply(restored.env, ...severe)).toMatchObject({
    exitCode: 0,
    envelope: { result: { left: 0 } },
  })
  expect((await readyz(restored.app)).status).toBe(200)
  expect(await told(restored.app, patients[0]!)).toBe(0)
  const steps = await restored.app.db.query<{ n: number }>(
    `select count(*)::int as n from tabib.erasure_ack group by request_id, participant`,
  )
  expect(new Set(steps.map(({ n }) => n))).toEqual(new Set([1]))
}, 90_000)

test('what somebody puts into the list without the secret erases nobody', async () => {
  const { app } = world()
  const victim = patients[4]!
  const secret = await app.erasureSecret()
  const forged = {
    ...{
      kind: 'request',
      ref: randomUUID(),
      tenantId,
      orderJti: randomUUID(),
      orderDigest: 'ab',
      authority: 'nobody',
    },
    subjectHash: secret.subjectHash(tenantId, victim.patientId).toString('hex'),
    ...{ requestedAt: new Date().toISOString(), deadlineAt: new Date().toISOString(), fingerprints: [] },
  }
  const segment = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
  for (const header of [{ alg: 'none' }, { alg: 'HS256', typ: 'tabib-erasure+jws' }]) {
    await app.nats.store({
      subject: 'tabib.erasures.request',
      messageId: randomUUID(),
      headers: new Map(),
      payload: Buffer.from(`${segment(header)}.${segment(forged)}.${Buffer.alloc(32).toString('base64url')}`),
    })
  }
  expect((await readyz(app)).status).toBe(200)
  expect(await rememberErasures(app)).toEqual({ written: 0, behind: 0 })
  expect(await told(app, victim)).toBeGreaterThan(4)
})

test('a list that was lost is written again from the database; without NATS a copy is told from the original', async () => {
  const { app } = world()
  await app.nats.deleteStream(ERASURE_STREAM.name)
  await app.nats.ensureStream(ERASURE_STREAM)
  expect(await rememberErasures(app)).toMatchObject({ written: 4, behind: 0 })
  expect(await rememberErasures(app)).toMatchObject({ written: 0, behind: 0 })

  await using restored = await restore()
  await world().nats.stop()
  try {
    expect((await readyz(app)).reasons.erasures).toBeUndefined()
    expect((await readyz(restored.app)).reasons.erasures).toMatch(/NATS is away/)
  } finally {
    await world().nats.restart()
  }
}, 60_000)
