import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { beforeEach, describe, expect, test, vi } from 'vitest'
import { openQuarantine } from '../src/domain/dlq/count.ts'
import { consumePass, drainConsumer, ensureConsumer, runConsumer } from '../src/domain/inbox/consume.ts'
import { CONSUMERS, type ConsumerSpec } from '../src/domain/inbox/consumers.ts'
import { parseEvent } from '../src/domain/inbox/event.ts'
import { handleEvent } from '../src/domain/inbox/handle.ts'
import { consumerLag } from '../src/domain/inbox/lag.ts'
import { eventIdOf } from '../src/domain/inbox/quarantine.ts'
import { sweepConsumer } from '../src/domain/inbox/sweep.ts'
import { listIncidents } from '../src/domain/incident/list.ts'
import { duplicateCharges } from '../src/domain/ledger/duplicates.ts'
import { captureCharge } from '../src/domain/payments/capture-charge.ts'
import { duplicateSessions } from '../src/domain/sessions/duplicate-sessions.ts'
import { scheduleSession } from '../src/domain/sessions/schedule.ts'
import { asTenant } from '../src/domain/sessions/tenant.ts'
import { TabibError } from '../src/errors.ts'
import { packageRoot } from '../src/package-root.ts'
import { charge, useInbox } from './support/inbox.ts'

const world = useInbox()
beforeEach(async () => {
  await world.owner.query('delete from tabib.quarantine')
  await world.owner.query('delete from tabib.incident')
})

const charges = async () => {
  const [row] = await world.db.query<{ n: number }>('select count(id)::int as n from billing.charge')
  return row!.n
}
const quarantined = (consumer: ConsumerSpec) =>
  world.db.query<{ event_id: string; reason: string; state: string; attempts: number; detail: string }>(
    'select * from tabib.quarantine where consumer = $1 order by id',
    [consumer.name],
  )
const deadLetters = async (consumer: ConsumerSpec) => {
  const found = []
  for await (const message of world.nats.messages('billing-dlq', 1, { payloads: true })) {
    if (message.subject.startsWith(`billing.dlq.${consumer.name}.`)) found.push(message)
  }
  return found
}
/** Passes until every event published was decided about. */
const settle = async (consumer: ConsumerSpec, deliveries: number) => {
  await ensureConsumer(world, consumer)
  for (let left = deliveries; left > 0; ) {
    const pass = await consumePass(world, consumer, { limit: left, expiresMs: 5_000 })
    left -= pass.handled + pass.duplicates + pass.retried + pass.quarantined
  }
}

const startConsumer = (consumer: ConsumerSpec, does: 'charge' | 'die') =>
  spawn(
    process.execPath,
    [
      '--import',
      'tsx',
      join(packageRoot(), 'test/fixture/run-consumer.ts'),
      world.databaseUrl,
      world.natsUrl,
      JSON.stringify(consumer),
      does,
    ],
    { stdio: ['ignore', 'inherit', 'inherit'] },
  )

describe('a consumer', () => {
  test('handles an event once, however often it is delivered', async () => {
    const consumer = world.consumer(charge)
    const [id] = await world.publish(consumer, [{}])
    await world.publish(consumer, [
      { id: id!, messageId: 'again-1' },
      { id: id!, messageId: 'again-2' },
    ])
    const before = await charges()
    await settle(consumer, 3)
    expect((await charges()) - before).toBe(1)
    expect(await duplicateCharges(world)).toEqual([])
    expect(await consumerLag(world, consumer)).toMatchObject({ lag: 0, redelivered: 0 })
  })

  test('handles an event once when two deliveries meet', async () => {
    const consumer = world.consumer(charge)
    const { service, name, handler } = consumer
    const event = {
      id: 'met',
      type: 'virtual-care.session.ended',
      source: '/virtual-care',
      tenantId: world.tenantId,
      aggregateType: null,
      aggregateId: null,
      aggSeq: null,
      time: null,
      data: {},
    }
    const before = await charges()
    const outcomes = await Promise.all(
      Array.from({ length: 6 }, () => handleEvent(world, { service, consumer: name, event, handler })),
    )
    expect(outcomes.map(({ kind }) => kind).sort()).toEqual([...Array(5).fill('duplicate'), 'handled'])
    expect((await charges()) - before).toBe(1)
  })

  test('says that an event comes after a later one of its aggregate', async () => {
    const seen: boolean[] = []
    const consumer = world.consumer(async (_tx, { late }) => {
      seen.push(late)
    })
    await world.publish(consumer, [
      { aggregateId: 'a', sequence: 2 },
      { aggregateId: 'a', sequence: 1 },
      { aggregateId: 'b', sequence: 1 },
    ])
    await settle(consumer, 3)
    expect(seen.sort()).toEqual([false, false, true])
  })

  test('works as the application’s role, for the event’s tenant alone', async () => {
    let who: unknown
    const consumer = world.consumer(async (tx) => {
      ;[who] = await tx.query(`select current_user as role, current_setting('app.tenant_id') as tenant`)
    })
    await world.publish(consumer, [{}])
    await settle(consumer, 1)
    expect(who).toEqual({ role: 'tabib_app', tenant: world.tenantId })
  })

  test('does not take a swallowed failure for success', async () => {
    const consumer = world.consumer(async (tx) => {
      await tx.query('select 1 / 0').catch(() => {})
    })
    await world.publish(consumer, [{}])
    await settle(consumer, 5)
    expect(await quarantined(consumer)).toHaveLength(1)
  })

  test('charges a session that ended once, at the tenant’s price, whatever the inbox forgot and the price is since', async () => {
    const consumer = { ...world.consumer(captureCharge), name: 'charge-capture' }
    const [id] = await world.publish(consumer, [{}])
    await settle(consumer, 1)
    await world.db.query('delete from billing.inbox where event_id = $1', [id])
    await asTenant(world.db, world.tenantId, (tx) =>
      tx.query('update billing.price set amount_minor = 60000'),
    )
    await world.publish(consumer, [{ id: id!, messageId: 'after-the-inbox-forgot' }])
    await settle(consumer, 1)
    expect(
      await world.db.query('select currency, amount_minor, code from billing.charge where event_id = $1', [
        id,
      ]),
    ).toEqual([{ currency: 'AFN', amount_minor: 50_000n, code: 'CONSULT-REMOTE' }])
  })

  test('that finds no price is counted, and its event quarantined', async () => {
    const { onFailure } = CONSUMERS.find(({ name }) => name === 'charge-capture')!
    const consumer = { ...world.consumer(captureCharge), onFailure: onFailure!, name: 'charge-capture-2' }
    const listEnds = (end: string) =>
      asTenant(world.db, world.tenantId, (tx) =>
        tx.query(`update billing.price_list set effective = tstzrange(lower(effective), ${end})`),
      )
    await listEnds('now()')
    await world.publish(consumer, [{}])
    await settle(consumer, 5)
    await listEnds('null')
    const [row] = await quarantined(consumer)
    expect(row).toMatchObject({ detail: expect.stringMatching(/^PRICE_NOT_FOUND: /) })
    expect(
      await world.db.query('select item_code, sum(n)::int as n from billing.price_refusal group by 1'),
    ).toEqual([{ item_code: 'CONSULT-REMOTE', n: 5 }])
  })

  test('opens one session for an appointment that was announced twice', async () => {
    const consumer = world.consumer(scheduleSession)
    const data = { appointmentId: '7b0f3a52-6c1d-4a6e-9a57-2f8d5c1e4b90' }
    await world.publish(consumer, [{ data }, { data }])
    await settle(consumer, 2)
    expect(await world.db.query('select id from communication.virtual_session')).toHaveLength(1)
    expect(await duplicateSessions(world)).toBe(0)
    expect(await quarantined(consumer)).toEqual([])
  })

  test('gives back what it has not begun when it is stopped', async () => {
    const stop = new AbortController()
    const begun: string[] = []
    const consumer = world.consumer(async (_tx, { id }) => {
      begun.push(id)
      stop.abort()
    })
    const ids = await world.publish(consumer, [{}, {}, {}])
    await runConsumer(world, consumer, { signal: stop.signal })
    expect(begun).toHaveLength(1)
    await drainConsumer(world, consumer)
    expect(begun.sort()).toEqual(ids.sort())
  })
})

describe('an event that cannot be handled', () => {
  test('goes to quarantine and the dead letters after five deliveries, and people are told once for all alike', async () => {
    const consumer = world.consumer(async () => {
      throw new Error('no price for Farida Ahmadi, +93791234567')
    })
    const ids = await world.publish(
      consumer,
      Array.from({ length: 20 }, () => ({ data: { name: 'Farida Ahmadi', phone: '+93791234567' } })),
    )
    await settle(consumer, 100)
    const rows = await quarantined(consumer)
    expect(rows.map(({ event_id }) => event_id).sort()).toEqual(ids.sort())
    expect(rows[0]).toMatchObject({
      reason: 'handler-failed',
      attempts: 5,
      state: 'open',
      tenant_id: world.tenantId,
      type: consumer.subject.replace('.evt.', '.'),
      redacted: { data: { name: '***', phone: '***' } },
    })
    expect(new Set(rows.map((row) => (row as { fingerprint?: string }).fingerprint)).size).toBe(1)
    const letters = await deadLetters(consumer)
    expect(letters.map(({ headers }) => headers.get('tabib-event-id')).sort()).toEqual(ids.sort())
    expect(JSON.parse(Buffer.from(letters[0]!.payload).toString())).toMatchObject({ specversion: '1.0' })
    const incidents = await listIncidents(world)
    expect(incidents).toHaveLength(1)
    expect(incidents[0]).toMatchObject({
      mode: 'billing/FM-18',
      severity: 'page',
      service: 'billing',
      occurrences: 20,
      state: 'open',
    })
    expect(JSON.stringify([incidents, rows.map(({ detail }) => detail)])).not.toMatch(
      /Farida|Ahmadi|\+9379|91234567/,
    )
    expect(await openQuarantine(world, { service: 'billing', origin: 'inbox' })).toBe(20)
  })

  test('is told apart from one that fails elsewhere', async () => {
    const consumer = world.consumer(async (_tx, { data }) => {
      if (data.kind === 'a') throw new TypeError('a')
      throw new RangeError('b')
    })
    await world.publish(consumer, [{ data: { kind: 'a' } }, { data: { kind: 'b' } }])
    await settle(consumer, 10)
    expect(await listIncidents(world)).toHaveLength(2)
  })

  test('does not stop the events behind it', async () => {
    const consumer = world.consumer(async (tx, event) => {
      if (event.data.poison) throw new Error('poison')
      await charge(tx, event)
    })
    await world.publish(consumer, [{ aggregateId: 'x', data: { poison: true } }, { aggregateId: 'x' }, {}])
    const before = await charges()
    await settle(consumer, 7)
    expect((await charges()) - before).toBe(2)
    expect(await quarantined(consumer)).toHaveLength(1)
  })

  test('is completed by the sweep when the consumer died before the dead letter, and once only', async () => {
    const consumer = world.consumer(async () => {
      throw new Error('poison')
    })
    await world.publish(consumer, [{}, {}])
    await settle(consumer, 10)
    // As a consumer leaves it that dies before the publication, or after it and before it is on record.
    const [first] = await deadLetters(consumer)
    await world.db.query('update tabib.quarantine set dead_lettered_at = null')
    await world.db.query('update tabib.quarantine set redrives = 1 where id::text <> $1', [
      first!.headers.get('tabib-quarantine'),
    ])
    expect(await sweepConsumer(world, consumer)).toMatchObject({ deadLetters: 1, quarantined: 0 })
    expect(await sweepConsumer(world, consumer)).toMatchObject({ deadLetters: 0, quarantined: 0 })
    expect(await deadLetters(consumer)).toHaveLength(3)
  })
})

describe('a foreign message', () => {
  const event = (change: object) =>
    JSON.stringify({
      specversion: '1.0',
      id: 'f-1',
      source: '/lab',
      type: 'lab.result.ready',
      tenantid: '7b0f3a52-6c1d-4a6e-9a57-2f8d5c1e4b90',
      data: {},
      ...change,
    })
  const nested = `${'['.repeat(100_000)}${']'.repeat(100_000)}`
  const messages: [flaw: string, payload: Uint8Array | string][] = [
    ['no-id', event({ id: undefined })],
    ['no-id', event({ id: 7 })],
    ['no-id', event({ id: 'a\u0000b' })],
    ['no-tenant', event({ tenantid: 'herat' })],
    ['not-cloudevent', event({ specversion: '0.3' })],
    ['not-cloudevent', event({ data: 'text' })],
    ['not-cloudevent', 'null'],
    ['not-json', ''],
    ['not-json', '{"id":NaN}'],
    ['not-utf8', new Uint8Array([0x7b, 0xff, 0x7d])],
    ['not-finite', event({}).replace('"data":{}', '"data":{"n":1e400}')],
    ['lone-surrogate', event({}).replace('"data":{}', '"data":{"s":"\\ud800"}')],
    ['too-deep', event({}).replace('"data":{}', `"data":{"a":${nested}}`)],
  ]

  test.each(messages)('that is %s is not taken for an event (%#)', (flaw, payload) => {
    expect(parseEvent(Buffer.from(payload))).toMatchObject({ kind: 'flaw', flaw })
  })

  test('is known by its place and its bytes: a stream made anew counts from one again', () => {
    const consumer = world.consumer(charge)
    const at = (seq: number, text: string) => {
      const payload = Buffer.from(text)
      const message = { seq, subject: consumer.subject, headers: new Map(), payload }
      return eventIdOf(consumer, message, parseEvent(payload))
    }
    expect(at(1, 'no event')).toBe(at(1, 'no event'))
    expect(new Set([at(1, 'no event'), at(2, 'no event'), at(1, 'another')]).size).toBe(3)
  })

  test('goes to quarantine at once with its bytes, and the consumer goes on', async () => {
    const consumer = world.consumer(charge)
    for (const [, payload] of messages) await world.publishRaw(consumer, payload)
    await world.publish(consumer, [{}])
    const before = await charges()
    await settle(consumer, messages.length + 1)
    expect((await charges()) - before).toBe(1)
    const rows = await world.db.query<{ reason: string; payload: Buffer }>(
      'select reason, payload from tabib.quarantine where consumer = $1 order by stream_seq',
      [consumer.name],
    )
    expect(rows.map(({ reason }) => reason)).toEqual(messages.map(([flaw]) => flaw))
    expect(rows.find(({ reason }) => reason === 'not-utf8')!.payload).toEqual(Buffer.from([0x7b, 0xff, 0x7d]))
  })
})

describe('a consumer that dies on an event each time', () => {
  const dieOn = async (consumer: ConsumerSpec) => {
    await ensureConsumer(world, consumer)
    for (let death = 0; death < 5; death += 1) {
      const [, signal] = await once(startConsumer(consumer, 'die'), 'exit')
      expect(signal).toBe('SIGKILL')
    }
  }

  test('is found by the server’s advisory', async () => {
    const consumer = world.consumer(charge)
    const [id] = await world.publish(consumer, [{}])
    await dieOn(consumer)
    const stop = new AbortController()
    const running = runConsumer(world, consumer, { signal: stop.signal, expiresMs: 1_000 })
    await vi.waitFor(async () => expect(await quarantined(consumer)).toHaveLength(1), { timeout: 20_000 })
    stop.abort()
    await running
    expect((await quarantined(consumer))[0]).toMatchObject({
      event_id: id,
      reason: 'deliveries-exhausted',
      attempts: 5,
    })
    expect(await deadLetters(consumer)).toHaveLength(1)
    expect(await sweepConsumer(world, consumer)).toMatchObject({ quarantined: 0 })
  })

  test('is found by the sweep when the advisory was missed, and what was handled is left alone', async () => {
    const consumer = world.consumer(charge)
    const [dead] = await world.publish(consumer, [{}])
    await dieOn(consumer)
    await world.publish(consumer, [{}, {}])
    const before = await charges()
    // A pass listens to no advisory.
    await settle(consumer, 2)
    expect((await charges()) - before).toBe(2)
    await vi.waitFor(
      async () => {
        await consumePass(world, consumer, { limit: 1, expiresMs: 1_000 })
        await sweepConsumer(world, consumer)
        expect((await quarantined(consumer)).map(({ event_id }) => event_id)).toEqual([dead])
      },
      { timeout: 20_000 },
    )
    expect(await sweepConsumer(world, consumer)).toMatchObject({ quarantined: 0 })
    expect(await deadLetters(consumer)).toHaveLength(1)
  })
})

test('a consumer that is killed again and again handles every event once', async () => {
  const consumer = world.consumer(charge)
  await ensureConsumer(world, consumer)
  const before = await charges()
  const ids = await world.publish(
    consumer,
    Array.from({ length: 300 }, () => ({})),
  )
  for (let kill = 1; kill <= 3; kill += 1) {
    const child = startConsumer(consumer, 'charge')
    // Killed in the midst of work, wherever that happens to be.
    await vi.waitFor(async () => expect((await charges()) - before).toBeGreaterThan(kill * 60), {
      timeout: 20_000,
      interval: 1,
    })
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
  const stop = new AbortController()
  const running = runConsumer(world, consumer, { signal: stop.signal, expiresMs: 1_000 })
  await vi.waitFor(async () => expect((await charges()) - before).toBe(ids.length), { timeout: 20_000 })
  stop.abort()
  await running
  expect(await duplicateCharges(world)).toEqual([])
  expect(await quarantined(consumer)).toEqual([])
})

describe('an outage', () => {
  test('of NATS is waited out', async () => {
    const consumer = world.consumer(charge)
    const before = await charges()
    await world.publish(consumer, [{}])
    const stop = new AbortController()
    const running = runConsumer(world, consumer, { signal: stop.signal, expiresMs: 1_000 })
    await vi.waitFor(async () => expect((await charges()) - before).toBe(1), { timeout: 20_000 })
    await world.natsServer.kill()
    await world.natsServer.restart()
    await world.publish(consumer, [{}])
    await vi.waitFor(async () => expect((await charges()) - before).toBe(2), { timeout: 30_000 })
    stop.abort()
    await running
    expect(await duplicateCharges(world)).toEqual([])
  })

  test('of Postgres is not the event’s fault', async () => {
    let outages = 2
    const consumer = world.consumer(async (tx, event) => {
      if (outages > 0) {
        outages -= 1
        throw new TabibError('POSTGRES_UNREACHABLE', 'Postgres is away')
      }
      await charge(tx, event)
    })
    await world.publish(consumer, [{}])
    const before = await charges()
    const stop = new AbortController()
    await runConsumer(world, consumer, {
      signal: stop.signal,
      expiresMs: 1_000,
      onPass: ({ handled }) => {
        if (handled > 0) stop.abort()
      },
    })
    expect((await charges()) - before).toBe(1)
    expect(await quarantined(consumer)).toEqual([])
  })
})
