import { randomUUID } from 'node:crypto'
import { appendFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { openDatabase } from '../../src/adapters/postgres/client.ts'
import { fingerprintOf } from '../../src/domain/idempotency/key.ts'
import { readDegraded } from '../../src/domain/messaging/read-degraded.ts'
import { MESSAGE_PATH, makeWaiting, requestMessage } from '../../src/domain/messaging/request-message.ts'
import {
  type AcceptedWrite,
  drainPreflight,
  openPreflight,
  readPreflight,
  readSegment,
} from '../../src/domain/outbox/preflight.ts'
import { TabibError } from '../../src/errors.ts'
import { mountSmallDisk } from '../../src/sandbox/faults/disk.ts'
import { openSandboxFolder } from '../../src/sandbox/folder.ts'
import { makeTenant } from '../../src/sandbox/tenants.ts'
import { useDatabase } from '../support/database.ts'

const database = useDatabase()
const dead = openDatabase({ url: 'postgres://nobody@127.0.0.1:9/none' })
let folder: string
beforeEach(async () => {
  folder = join(await mkdtemp(join(tmpdir(), 'tabib-preflight-')), 'preflight')
})
afterEach(() => rm(join(folder, '..'), { recursive: true }))

// Nobody was erased here.
const erasureSecret = () => Promise.reject(new Error('the secret was asked for'))
const open = (maxBytes = 1 << 20) => openPreflight({ folder, maxBytes })
const message = (template = 'reminder') => ({ patientId: randomUUID(), channel: 'sms', template })
const callFor = (tenantId: string, asked: object, key: string = randomUUID()) => ({
  service: 'communication' as const,
  tenantId,
  route: `POST ${MESSAGE_PATH}`,
  key,
  fingerprint: fingerprintOf({}, asked),
})
const ask = (
  systems: Omit<Parameters<typeof requestMessage>[0], 'erasureSecret'>,
  tenantId: string,
  { asked = message(), key = randomUUID() }: { asked?: ReturnType<typeof message>; key?: string } = {},
) => requestMessage({ ...systems, erasureSecret }, callFor(tenantId, asked, key), asked)
const drain = (again = false) =>
  drainPreflight(folder, { make: (write) => makeWaiting({ db: database.db, erasureSecret }, write), again })
const idOf = ({ body }: { body: string }): string => JSON.parse(body).id
const made = async (tenantId: string): Promise<string[]> => {
  const rows = await database.db.query<{ id: string }>(
    `select aggregate_id as id from communication.outbox where tenant_id = $1 order by seq`,
    [tenantId],
  )
  return rows.map(({ id }) => id)
}
const write = (n: number): AcceptedWrite => {
  const asked = message(`t${n}`)
  return { id: randomUUID(), acceptedAt: new Date(), call: callFor(randomUUID(), asked), asked }
}
const onlyFile = async () => join(folder, (await readdir(folder))[0]!)

test('what is accepted while Postgres is away is made in order and once, by however many drain it', async () => {
  const tenantId = await makeTenant(database)
  await using preflight = open()
  const answers = []
  for (let n = 0; n < 20; n += 1) answers.push(await ask({ db: dead, preflight }, tenantId))
  expect(answers.map(({ status }) => status)).toEqual(Array(20).fill(202))
  // What comes after stays behind it, though Postgres is there.
  answers.push(await ask({ db: database.db, preflight }, tenantId))
  expect(answers.at(-1)?.status).toBe(202)
  expect(await readPreflight(folder)).toMatchObject({ waiting: 21, refused: 0, damaged: 0 })

  const drained = await Promise.all([drain(), drain(), drain()])
  expect(drained.map(({ stopped }) => stopped)).toEqual([undefined, undefined, undefined])
  expect(await made(tenantId)).toEqual(answers.map(idOf))
  expect(await readdir(folder)).toEqual([])
  expect((await ask({ db: database.db, preflight }, tenantId)).status).toBe(201)
})

test('what is accepted while another process drains is not lost', async () => {
  const tenantId = await makeTenant(database)
  await using preflight = open()
  let accepting = true
  const drains = (async () => {
    while (accepting) await drain()
  })()
  const call = () => {
    const asked = message()
    return { id: randomUUID(), acceptedAt: new Date(), call: callFor(tenantId, asked), asked }
  }
  for (let n = 0; n < 30; n += 1) {
    await Promise.all(Array.from({ length: 10 }, () => preflight.accept(call())))
  }
  accepting = false
  await drains
  expect((await drain()).stopped).toBeUndefined()
  expect(await made(tenantId)).toHaveLength(300)
})

test('a key is one message, whether it was asked for before, during or after', async () => {
  const tenantId = await makeTenant(database)
  await using preflight = open()
  const [asked, key] = [message(), randomUUID()]
  const before = await ask({ db: database.db, preflight }, tenantId, { asked, key })
  const during = await ask({ db: dead, preflight }, tenantId, { asked, key })
  const again = await ask({ db: dead, preflight }, tenantId, { asked, key })
  expect([before, during, again].map(({ status, replayed }) => [status, replayed])).toEqual([
    [201, false],
    [202, false],
    [202, true],
  ])
  await expect(ask({ db: dead, preflight }, tenantId, { key })).rejects.toMatchObject({
    code: 'IDEMPOTENCY_KEY_REUSED',
  })
  await drain()
  const after = await ask({ db: database.db, preflight }, tenantId, { asked, key })
  expect([after.status, after.replayed]).toEqual([201, true])
  expect(new Set([before, during, again, after].map(idOf)).size).toBe(1)
  expect(await made(tenantId)).toEqual([idOf(before)])
})

describe('what the disk does', () => {
  test('a file that ends anywhere holds every record that ended before, and never half a one', async () => {
    await using preflight = open()
    const writes = Array.from({ length: 5 }, (_, n) => write(n))
    const ends: number[] = []
    for (const one of writes) {
      await preflight.accept(one)
      ends.push((await readFile(await onlyFile())).length)
    }
    const whole = await readFile(await onlyFile())
    const cut = join(folder, '..', 'cut')
    await fc.assert(
      fc.asyncProperty(fc.nat(whole.length), async (length) => {
        await writeFile(cut, whole.subarray(0, length))
        const { writes: read, torn, damaged } = await readSegment(cut)
        const there = ends.filter((end) => end <= length)
        expect(read.map(({ id }) => id)).toEqual(writes.slice(0, there.length).map(({ id }) => id))
        expect([torn, damaged]).toEqual([length - (there.at(-1) ?? 0), 0])
      }),
      { numRuns: 200 },
    )
  })

  test('a record that was changed on the disk keeps no other from being made, and its file is kept', async () => {
    const tenantId = await makeTenant(database)
    await using preflight = open()
    const answers = []
    for (let n = 0; n < 3; n += 1) answers.push(await ask({ db: dead, preflight }, tenantId))
    const path = await onlyFile()
    const bytes = await readFile(path)
    bytes[bytes.indexOf(idOf(answers[1]!))]! ^= 1
    await writeFile(path, bytes)
    expect(await readPreflight(folder)).toMatchObject({ waiting: 2, damaged: 1 })
    expect(await drain()).toMatchObject({ drained: 2, stopped: undefined })
    expect(await made(tenantId)).toEqual([idOf(answers[0]!), idOf(answers[2]!)])
    expect(await readPreflight(folder)).toMatchObject({ waiting: 0, damaged: 1 })
  })

  test('a process that died in the midst of a record leaves no more than that record behind', async () => {
    await using died = open()
    await died.accept(write(1))
    await appendFile(await onlyFile(), Buffer.from('54425046000002', 'hex'))
    await using next = open()
    await next.accept(write(2))
    expect(await readPreflight(folder)).toMatchObject({ waiting: 2, damaged: 0 })
  })

  test('at its limit it takes no more, keeps what it has, and takes more once that is made', async () => {
    const tenantId = await makeTenant(database)
    await using preflight = open(2_000)
    const asked = await Promise.allSettled(
      Array.from({ length: 10 }, () => ask({ db: dead, preflight }, tenantId)),
    )
    const [taken, refused] = ['fulfilled', 'rejected'].map((how) =>
      asked.filter(({ status }) => status === how),
    )
    expect(taken!.length).toBeGreaterThan(0)
    for (const one of refused!)
      expect(one).toMatchObject({ reason: { code: 'PREFLIGHT_FULL', retryable: true } })
    expect((await readPreflight(folder)).waiting).toBe(taken!.length)
    await drain()
    expect((await ask({ db: dead, preflight }, tenantId)).status).toBe(202)
  })

  test('a full disk takes no write, loses none, and takes the next once there is room', async () => {
    await using sandbox = await openSandboxFolder()
    const dir = await sandbox.make('disk')
    const disk = await mountSmallDisk(dir, 1)
    folder = join(folder, '..', 'unused')
    const place = join(dir, 'preflight')
    await using preflight = openPreflight({ folder: place, maxBytes: 1 << 20 })
    await preflight.accept(write(1))
    await disk.fill()
    // Within the block that the first record has there may be room for one more.
    const outcomes = []
    for (let n = 2; n < 40; n += 1) {
      outcomes.push(
        await preflight.accept(write(n)).then(
          () => n,
          ({ code }) => code,
        ),
      )
    }
    expect(outcomes).toContain('PREFLIGHT_FULL')
    await disk.free()
    await preflight.accept(write(40))
    const kept = outcomes.filter((one) => typeof one === 'number').length
    expect(await readPreflight(place)).toMatchObject({ waiting: kept + 2, damaged: 0 })
  })

  test('a folder that nobody may write to is said, and no request hangs', async () => {
    await writeFile(folder, 'a file in its place')
    await using preflight = open()
    await expect(preflight.accept(write(1))).rejects.toMatchObject({ code: 'PREFLIGHT_FULL' })
    await rm(folder)
    await mkdir(folder)
  })
})

test('what Postgres refuses for good holds nobody up, is kept, and is made once it can be', async () => {
  const [tenantId, nobody] = [await makeTenant(database), randomUUID()]
  await using preflight = open()
  await ask({ db: dead, preflight }, nobody)
  const good = await ask({ db: dead, preflight }, tenantId)
  expect(await drain()).toMatchObject({ drained: 1, refused: [{ why: expect.stringMatching(/tenant/) }] })
  expect(await made(tenantId)).toEqual([idOf(good)])
  expect(await readPreflight(folder)).toMatchObject({ waiting: 0, refused: 1 })
  expect(await drain()).toMatchObject({ drained: 0, refused: [] })
  expect((await drain(true)).refused).toHaveLength(1)
  await makeTenant(database, nobody)
  expect(await drain(true)).toMatchObject({ drained: 1, refused: [] })
  expect(await readdir(folder)).toEqual([])
})

test('what waits for a patient who was erased meanwhile is neither made nor kept', async () => {
  await using preflight = open()
  const [erased, other] = [write(1), write(2)]
  for (const one of [erased, other]) await preflight.accept(one)
  const made: string[] = []
  const make = async ({ id }: AcceptedWrite) => {
    if (id === erased.id) throw new TabibError('SUBJECT_ERASED', 'they have been erased')
    made.push(id)
  }
  expect(await drainPreflight(folder, { make })).toMatchObject({ drained: 1, erased: 1, refused: [] })
  expect([made, await readdir(folder)]).toEqual([[other.id], []])
})

test('without a preflight a write is refused, to be asked for again', async () => {
  await expect(ask({ db: dead, preflight: undefined }, randomUUID())).rejects.toMatchObject({
    code: 'POSTGRES_UNREACHABLE',
    retryable: true,
  })
})

test('a read goes to whoever answers once no primary does, and says as of when it is', async () => {
  const one = (db: typeof dead) => db.query<{ n: number }>('select 1 as n')
  expect(await readDegraded({ db: database.db, replica: dead }, one)).toMatchObject({ asOf: undefined })
  expect(await readDegraded({ db: dead, replica: database.db }, one)).toMatchObject({
    found: [{ n: 1 }],
    asOf: expect.any(Date),
  })
  await expect(readDegraded({ db: dead, replica: dead }, one)).rejects.toMatchObject({
    code: 'POSTGRES_UNREACHABLE',
  })
})
