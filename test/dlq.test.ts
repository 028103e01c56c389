import { randomUUID } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { openNats } from '../src/adapters/nats/client.ts'
import { listAudit } from '../src/domain/audit/list.ts'
import { openQuarantine } from '../src/domain/dlq/count.ts'
import { discardEvents } from '../src/domain/dlq/discard.ts'
import { groupQuarantine, listQuarantine } from '../src/domain/dlq/list.ts'
import { planRedrive, type RedriveOptions, redriveEvents } from '../src/domain/dlq/redrive.ts'
import { consumePass, ensureConsumer, runConsumer } from '../src/domain/inbox/consume.ts'
import type { ConsumerSpec } from '../src/domain/inbox/consumers.ts'
import { settleExhausted, sweepConsumer } from '../src/domain/inbox/sweep.ts'
import { listIncidents } from '../src/domain/incident/list.ts'
import { duplicateCharges } from '../src/domain/ledger/duplicates.ts'
import { openRelay } from '../src/domain/outbox/relay.ts'
import { outboxSource } from '../src/domain/outbox/source.ts'
import { packageRoot } from '../src/package-root.ts'
import { charge, type PublishedEvent, useInbox } from './support/inbox.ts'
import { type Line, runLine } from './support/line.ts'

const world = useInbox()
let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tabib-dlq-'))
})
afterAll(() => rm(folder, { recursive: true }))
beforeEach(async () => {
  await world.owner.query('delete from tabib.quarantine')
  await world.owner.query('delete from tabib.incident')
})

const environment = () => ({
  TABIB_ACTOR: 'ahmad',
  TABIB_DATABASE_URL: world.databaseUrl,
  TABIB_NATS_URL: world.natsUrl,
})
const tabib = (argv: string[]) => runLine(['dlq', ...argv], environment())

/** A consumer that fails on everything until it is mended, with events in quarantine already. */
async function broken(events: PublishedEvent[]) {
  let mended = false
  const consumer = world.consumer(async (tx, event) => {
    if (!mended || event.data.poison) throw new Error('no price for Farida Ahmadi')
    await charge(tx, event)
  })
  await world.publish(consumer, events)
  await ensureConsumer(world, consumer)
  await settleDeliveries(consumer, events.length * 5)
  const { events: quarantined } = await planRedrive(world, { consumer: consumer.name })
  const ids = quarantined.map(({ id }) => id)
  expect(ids).toHaveLength(events.length)
  return {
    consumer,
    ids,
    mend: () => {
      mended = true
    },
  }
}

async function settleDeliveries(consumer: ConsumerSpec, deliveries: number) {
  for (let left = deliveries; left > 0; ) {
    const pass = await consumePass(world, consumer, { limit: left, expiresMs: 5_000 })
    left -= pass.handled + pass.duplicates + pass.retried + pass.quarantined
  }
}

/** Runs the consumer while `work` runs. */
async function consuming<T>(consumer: ConsumerSpec, work: () => Promise<T>): Promise<T> {
  const stop = new AbortController()
  const running = runConsumer(world, consumer, { signal: stop.signal, expiresMs: 1_000 })
  try {
    return await work()
  } finally {
    stop.abort()
    await running
  }
}

const redrive = (ids: string[], more: Partial<RedriveOptions> = {}) =>
  redriveEvents(world, {
    ids,
    canary: 1,
    ratePerS: 1_000,
    wait: true,
    canaryTimeoutMs: 20_000,
    run: randomUUID(),
    by: 'ahmad',
    signal: new AbortController().signal,
    ...more,
  })

const stateOf = async (consumer: ConsumerSpec) =>
  (await listQuarantine(world, { consumer: consumer.name })).map(({ state }) => state)

const sentAgain = async (consumer: ConsumerSpec) => {
  const found = []
  for await (const message of world.nats.messages(consumer.stream, 1)) {
    if (message.subject === consumer.subject && message.headers.has('tabib-redrive')) found.push(message)
  }
  return found
}

const patient = { name: 'Farida Ahmadi', phone: '+93791234567', status: 'ended' }

describe('dlq list', () => {
  test('finds events by each filter', async () => {
    const { consumer } = await broken([{}, {}])
    const { service, name } = consumer
    const base = { service, consumer: name }
    const count = async (filter: object) => (await listQuarantine(world, { ...base, ...filter })).length
    const [{ fingerprint } = { fingerprint: '' }] = await listQuarantine(world, base)
    expect(await count({ origin: 'inbox', states: ['open'] })).toBe(2)
    expect(await count({ origin: 'outbox' })).toBe(0)
    expect(await count({ type: consumer.subject.split('.').at(-1) })).toBe(2)
    expect(await count({ type: 'ended' })).toBe(0)
    expect(await count({ tenant: world.tenantId.toUpperCase() })).toBe(2)
    expect(await count({ tenant: 'herat' })).toBe(0)
    expect(await count({ reason: 'handler-failed', fingerprint })).toBe(2)
    expect(await count({ olderThanMs: 60_000 })).toBe(0)
    await world.db.query(`update tabib.quarantine set quarantined_at = now() - interval '2 minutes'`)
    expect(await count({ olderThanMs: 60_000 })).toBe(2)
    expect(await groupQuarantine(world, base)).toEqual([
      expect.objectContaining({ fingerprint, events: 2, tenants: 1, reason: 'handler-failed' }),
    ])
  })
})

describe('what a patient is called', () => {
  test('is printed by no command but a reveal with a reason, and that is audited', async () => {
    const { ids } = await broken([{ data: patient }])
    const [id] = ids as [string]
    const outputs: Line[] = []
    for (const argv of [
      ['list'],
      ['list', '--json'],
      ['list', '--group'],
      ['show', id],
      ['show', id, '--json'],
      ['redrive', id, '--dry-run'],
      ['discard', id, '--dry-run', '--json'],
      ['show', id, '--reveal'],
    ]) {
      outputs.push(await tabib(argv))
    }
    expect(outputs.map(({ exitCode }) => exitCode)).toEqual([0, 0, 0, 0, 0, 0, 0, 5])
    for (const { stdout, stderr } of outputs)
      expect(stdout + stderr).not.toMatch(/Farida|Ahmadi|\+9379|91234567/)
    expect(JSON.parse(outputs[4]!.stdout).result.redacted.data).toEqual({
      name: '***',
      phone: '***',
      status: 'ended',
    })

    const { stdout } = await tabib(['show', id, '--reveal', '--reason', 'INC-42', '--json'])
    expect(JSON.parse(JSON.parse(stdout).result.payload).data).toEqual(patient)
    expect(await listAudit(world, { command: 'dlq show', limit: 10 })).toEqual([
      expect.objectContaining({ phase: 'after', outcome: 'ok', reason: 'INC-42', actor: 'ahmad' }),
      expect.objectContaining({ phase: 'before', targets: [`quarantine:${id}`] }),
    ])
  })
})

describe('dlq redrive', () => {
  test('sends the rest when the canary was handled; each takes effect once, and the incident is over', async () => {
    const { consumer, ids, mend } = await broken([{}, {}, {}])
    mend()
    const result = await consuming(consumer, () => redrive(ids))
    expect(result).toEqual({ sent: 3, redriven: 3, failed: [], pending: 0, kept: 0 })
    expect(await stateOf(consumer)).toEqual(['redriven', 'redriven', 'redriven'])
    expect(await duplicateCharges(world)).toEqual([])
    expect(await openQuarantine(world, { service: 'billing' })).toBe(0)
    expect(await listIncidents(world)).toEqual([])
    const messages = await sentAgain(consumer)
    expect(messages.map(({ headers }) => headers.get('tabib-redrive'))).toEqual(ids)
  })

  test('keeps the rest back when the canary fails, and the dead-letter policy stays', async () => {
    const { consumer, ids } = await broken([{}, {}, {}])
    const result = await consuming(consumer, () => redrive(ids))
    expect(result).toEqual({ sent: 1, redriven: 0, failed: [ids[0]], pending: 0, kept: 2 })
    expect(await stateOf(consumer)).toEqual(['open', 'open', 'open'])
    const [first] = await listQuarantine(world, { ids: ids.slice(0, 1) })
    expect(first).toMatchObject({ attempts: 10, redrives: 1, resolvedBy: null })
    expect(await sentAgain(consumer)).toHaveLength(1)
    expect(await listIncidents(world)).toHaveLength(1)
  })

  test('sends an event that failed again under another message id', async () => {
    const { consumer, ids, mend } = await broken([{}])
    await consuming(consumer, async () => {
      await redrive(ids)
      mend()
      expect(await redrive(ids)).toMatchObject({ redriven: 1 })
    })
    const messageIds = (await sentAgain(consumer)).map(({ headers }) => headers.get('Nats-Msg-Id'))
    expect(messageIds).toEqual([
      expect.stringMatching(`:redrive:${ids[0]}:1$`),
      expect.stringMatching(`:redrive:${ids[0]}:2$`),
    ])
  })

  test('sends the rest no faster than it was told', async () => {
    const { consumer, ids, mend } = await broken([{}, {}, {}, {}, {}])
    mend()
    await consuming(consumer, () => redrive(ids, { ratePerS: 5 }))
    const times = (await sentAgain(consumer)).slice(1).map(({ time }) => time.getTime())
    // Three pauses of 200 ms, as the stream's own clock saw them: the first may have been a moment on its way.
    expect(times.at(-1)! - times[0]!).toBeGreaterThanOrEqual(500)
  })

  test('reports what failed again behind a canary that did not', async () => {
    const { consumer, ids, mend } = await broken([{}, { data: { poison: true } }, {}])
    mend()
    const result = await consuming(consumer, () => redrive(ids))
    expect(result).toEqual({ sent: 3, redriven: 2, failed: [ids[1]], pending: 0, kept: 0 })
  })

  test('ends with a time-out when nobody handles the canary', async () => {
    const { ids } = await broken([{}, {}])
    await expect(redrive(ids, { canaryTimeoutMs: 100 })).rejects.toMatchObject({ code: 'TIMED_OUT' })
    expect((await planRedrive(world, { ids })).events.map(({ state }) => state)).toEqual([
      'redriving',
      'open',
    ])
  })

  test('is partly done when NATS goes away, and goes on from there', async () => {
    const { consumer, ids, mend } = await broken([{}, {}, {}])
    mend()
    const unreachable = openNats({ url: 'nats://127.0.0.1:1', connectTimeoutMs: 500 })
    const nats = {
      ...world.nats,
      store: async (message: Parameters<typeof world.nats.store>[0]) =>
        (await sentAgain(consumer)).length < 2 ? world.nats.store(message) : unreachable.store(message),
    }
    await consuming(consumer, async () => {
      await expect(
        redriveEvents(
          { db: world.db, nats },
          {
            ids,
            canary: 1,
            ratePerS: 1_000,
            wait: false,
            canaryTimeoutMs: 20_000,
            run: randomUUID(),
            by: 'ahmad',
            signal: new AbortController().signal,
          },
        ),
      ).rejects.toMatchObject({ code: 'PARTIAL', context: { sent: 2, of: 3 } })
      const left = (await planRedrive(world, { ids })).events.map(({ id }) => id)
      expect(left).toContain(ids[2])
      expect(await redrive(left)).toMatchObject({ failed: [], pending: 0 })
    })
    expect(await stateOf(consumer)).toEqual(['redriven', 'redriven', 'redriven'])
    expect(await sentAgain(consumer)).toHaveLength(3)
  })

  test('killed midway and started again sends every event once', async () => {
    const { consumer, ids, mend } = await broken(Array.from({ length: 6 }, () => ({})))
    mend()
    await consuming(consumer, async () => {
      const argv = ['redrive', '--consumer', consumer.name, '--rate', '2/s', '--yes']
      const killed = execa(process.execPath, [join(packageRoot(), 'bin/run.js'), 'dlq', ...argv], {
        env: environment(),
        reject: false,
      })
      await vi.waitFor(async () => expect((await sentAgain(consumer)).length).toBeGreaterThan(1), {
        timeout: 30_000,
        interval: 20,
      })
      killed.kill('SIGKILL')
      expect((await killed).signal).toBe('SIGKILL')
      const again = await tabib([...argv.slice(0, 3), '--rate', '100/s', '--wait', '--yes', '--json'])
      expect(again.exitCode).toBe(0)
    })
    expect(await stateOf(consumer)).toEqual(Array(6).fill('redriven'))
    expect((await sentAgain(consumer)).map(({ headers }) => headers.get('tabib-redrive'))).toEqual(ids)
    expect(await duplicateCharges(world)).toEqual([])
  })

  test('an event that kills its consumer again is open again, whichever of its deliveries the server gives up on', async () => {
    const { consumer, ids } = await broken([{}])
    await expect(redrive(ids, { canaryTimeoutMs: 1 })).rejects.toMatchObject({ code: 'TIMED_OUT' })
    const [message] = await sentAgain(consumer)
    // The first sending was decided about when it was quarantined.
    expect(await settleExhausted(world, consumer, message!.seq - 1)).toBe(false)
    expect(await settleExhausted(world, consumer, message!.seq)).toBe(true)
    expect(await listQuarantine(world, { ids })).toEqual([
      expect.objectContaining({ state: 'open', reason: 'deliveries-exhausted', attempts: 10 }),
    ])
    expect(await settleExhausted(world, consumer, message!.seq)).toBe(false)
    expect(await sweepConsumer(world, consumer)).toMatchObject({ quarantined: 0, deadLetters: 0 })
  })

  test('a message that is no event keeps its entry when it is sent again', async () => {
    const consumer = world.consumer(charge)
    await world.publishRaw(consumer, 'no event')
    await ensureConsumer(world, consumer)
    await settleDeliveries(consumer, 1)
    const [entry] = await listQuarantine(world, { consumer: consumer.name })
    const result = await consuming(consumer, () => redrive([entry!.id]))
    expect(result).toMatchObject({ failed: [entry!.id] })
    expect(await listQuarantine(world, { consumer: consumer.name })).toEqual([
      expect.objectContaining({ id: entry!.id, state: 'open', attempts: 2 }),
    ])
  })

  test('exits 1 when the canary failed, 5 when nobody said yes, and 0 when nothing matches', async () => {
    const { consumer, ids } = await broken([{}, {}])
    const argv = ['redrive', '--consumer', consumer.name]
    const failed = await consuming(consumer, () => tabib([...argv, '--yes']))
    expect(failed.exitCode).toBe(1)
    expect(failed.stdout).toContain('The canary failed; 1 event not sent')
    expect(failed.stdout).toContain(`Try: tabib dlq show ${ids[0]}`)
    expect((await tabib(argv)).exitCode).toBe(5)
    const none = await tabib(['redrive', '--consumer', 'nobody'])
    expect([none.exitCode, none.stdout]).toEqual([0, '√ no event in quarantine matches'])
    const unknown = await tabib(['redrive', randomUUID(), '--yes'])
    expect(unknown.exitCode).toBe(2)
    const timedOut = await tabib([...argv, '--canary-timeout', '50ms', '--yes'])
    expect(timedOut.exitCode).toBe(8)
    expect(timedOut.stderr).toContain(
      `tabib dlq redrive --consumer ${consumer.name} --canary-timeout 50ms --yes`,
    )
  })

  test('does the plan that was shown, and refuses another', async () => {
    const { consumer, mend } = await broken([{}])
    mend()
    const argv = ['redrive', '--consumer', consumer.name]
    const planned = JSON.parse((await tabib([...argv, '--dry-run', '--json'])).stdout).result
    expect(await sentAgain(consumer)).toEqual([])
    const apply = [...argv, '--apply', planned.planHash, '--yes']
    expect((await consuming(consumer, () => tabib(apply))).exitCode).toBe(0)
    expect((await tabib(apply)).exitCode).toBe(6)
    expect(await listAudit(world, { command: 'dlq redrive', limit: 1 })).toEqual([
      expect.objectContaining({ planHash: planned.planHash, phase: 'after', outcome: 'ok', tenantCount: 1 }),
    ])
  })
})

describe('dlq discard', () => {
  test('lets an event never take effect, not even when it is delivered again', async () => {
    const { consumer, ids, mend } = await broken([{ id: 'to-discard' }])
    mend()
    expect(await discardEvents(world, { ids, by: 'ahmad', reason: 'test data' })).toEqual({ discarded: 1 })
    expect(await discardEvents(world, { ids, by: 'ahmad', reason: 'test data' })).toEqual({ discarded: 0 })
    await world.publish(consumer, [{ id: 'to-discard', messageId: 'replayed' }])
    const pass = await consumePass(world, consumer, { limit: 1, expiresMs: 5_000 })
    expect(pass).toMatchObject({ duplicates: 1, handled: 0 })
    expect(await stateOf(consumer)).toEqual(['discarded'])
    expect(await listIncidents(world)).toEqual([])
  })

  test('wants the id or the number typed, and a reason', async () => {
    const { consumer, ids } = await broken([{}, {}])
    const one = ['discard', ids[0]!]
    expect((await tabib([...one, '--reason', 'x'])).exitCode).toBe(5)
    expect((await tabib([...one, '--confirm', ids[0]!])).exitCode).toBe(5)
    expect((await tabib([...one, '--confirm', '1 event', '--reason', 'x'])).exitCode).toBe(5)
    expect((await tabib([...one, '--confirm', ids[0]!, '--reason', 'x'])).exitCode).toBe(0)
    const all = ['discard', '--service', 'billing', '--reason', 'x', '--confirm']
    await broken([{}])
    expect((await tabib([...all, '3 events'])).exitCode).toBe(5)
    expect((await tabib([...all, '2 events'])).exitCode).toBe(0)
    expect(await stateOf(consumer)).toEqual(['discarded', 'discarded'])
    expect((await tabib(['discard', '--reason', 'x'])).exitCode).toBe(2)
  })
})

describe('an event that could not be published', () => {
  const produce = async (subject: string | null, aggregateId: string) => {
    const [row] = await world.owner.query<{ id: string }>(
      `insert into billing.outbox (tenant_id, aggregate_type, aggregate_id, type, data, subject)
       values ($1, 'charge', $2, 'captured', '{}', $3) returning id`,
      [world.tenantId, aggregateId, subject],
    )
    return row!.id
  }

  test('is handed to the relay, which tells whether it is still poison; discarded it frees those behind it', async () => {
    await using nats = openNats({ url: world.natsUrl, onDisconnect: 'fail' })
    await using relay = openRelay(
      { db: world.db, nats },
      { source: outboxSource('billing'), holder: 'test', poison: 'hold' },
    )
    const poison = await produce('billing.evt.with space', 'a')
    const held = await produce(null, 'a')
    await relay.pass()
    const events = await listQuarantine(world, { origin: 'outbox' })
    expect(events.map(({ eventId, state }) => [eventId, state])).toEqual([
      [poison, 'open'],
      [held, 'held'],
    ])
    const ids = (await planRedrive(world, { origin: 'outbox' })).events.map(({ id }) => id)
    expect(ids).toEqual([events[0]!.id])

    let done = false
    const redriven = redrive(ids).finally(() => {
      done = true
    })
    while (!done) await relay.pass()
    expect(await redriven).toMatchObject({ failed: ids, redriven: 0 })

    await discardEvents(world, { ids, by: 'ahmad', reason: 'subject cannot be mended' })
    await vi.waitFor(
      async () => {
        await relay.pass()
        expect(await listQuarantine(world, { origin: 'outbox', states: ['redriven'] })).toHaveLength(1)
      },
      { timeout: 20_000 },
    )
    expect((await world.nats.message('billing-evt', 1))?.headers.get('Nats-Msg-Id')).toBe(held)
  })

  test('waits for an earlier one of its aggregate that nobody sends again', async () => {
    await using nats = openNats({ url: world.natsUrl, onDisconnect: 'fail' })
    await using relay = openRelay(
      { db: world.db, nats },
      { source: outboxSource('billing'), holder: 'test', poison: 'skip' },
    )
    await produce('billing.evt.first one', 'b')
    await produce('billing.evt.second one', 'b')
    await relay.pass()
    const [first, second] = await listQuarantine(world, { origin: 'outbox' })
    expect(await planRedrive(world, { ids: [second!.id] })).toEqual({ events: [], behind: [second!.id] })
    expect(await planRedrive(world, { ids: [first!.id, second!.id] })).toMatchObject({ behind: [] })
  })
})
