import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { type AddressInfo, createConnection, createServer, type Socket } from 'node:net'
import { setImmediate } from 'node:timers/promises'
import { afterEach, describe, expect, it } from 'vitest'
import { type Nats, openNats, type StoredMessage } from '../../src/adapters/nats/client.ts'
import type { Database } from '../../src/adapters/postgres/client.ts'
import { loadConfig } from '../../src/config.ts'
import { recordBatch, recordSingle, recordSurvival } from '../../src/domain/outbox/attempts.ts'
import { envelope } from '../../src/domain/outbox/envelope.ts'
import { NOTHING_DONE } from '../../src/domain/outbox/position.ts'
import { openRelay, type Relay, type RelayOptions, type RelayPass } from '../../src/domain/outbox/relay.ts'
import { applyReplay, planReplay } from '../../src/domain/outbox/replay.ts'
import { outboxSource } from '../../src/domain/outbox/source.ts'
import { openWindowReader } from '../../src/domain/outbox/window.ts'
import { eventStreamOf } from '../../src/service.ts'
import { useDatabase } from '../support/database.ts'
import { useNats } from '../support/nats.ts'

const SERVICE = 'billing'
const STREAM = eventStreamOf(SERVICE)
const LEASE_MS = 400

const database = useDatabase()
const nats = useNats()
const opened: { relay: Relay; nats: Nats }[] = []

function relay(options: Partial<RelayOptions> = {}, url = nats.server.url): Relay {
  const client = openNats({ url, onDisconnect: 'fail' })
  const one = openRelay(
    { db: database.db, nats: client },
    { source: outboxSource(SERVICE), holder: randomUUID(), poison: 'hold', leaseTtlMs: LEASE_MS, ...options },
  )
  opened.push({ relay: one, nats: client })
  return one
}

afterEach(async () => {
  for (const one of opened.splice(0)) {
    await one.relay[Symbol.asyncDispose]()
    await one.nats.close()
  }
  await database.owner.query(
    'delete from tabib.outbox_progress; delete from tabib.outbox_attempt; delete from tabib.quarantine',
  )
  await database.owner.query('truncate billing.outbox')
  await nats.client.deleteStream(STREAM)
})

async function freshStream(duplicateWindowMs = 120_000): Promise<void> {
  await nats.client.ensureStream({
    name: STREAM,
    subjects: [`${SERVICE}.evt.>`],
    duplicate_window: duplicateWindowMs * 1e6,
  })
}

/** Stands before a server and hands its answers on in pieces of a few bytes, each a packet of its own. */
async function cutAnswers(host: string, port: number): Promise<AsyncDisposable & { port: number }> {
  const sockets: Socket[] = []
  const server = createServer({ noDelay: true }, (client) => {
    const upstream = createConnection({ host, port })
    sockets.push(client, upstream)
    client.on('error', () => {}).pipe(upstream.on('error', () => {}))
    let pieces = 0
    upstream.on('data', async (bytes) => {
      upstream.pause()
      for (let at = 0; at < bytes.length; ) {
        pieces += 1
        const piece = bytes.subarray(at, at + 1 + ((pieces * 7) % 90))
        at += piece.length
        client.write(piece)
        await setImmediate()
      }
      upstream.resume()
    })
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy()
      server.close()
    },
  }
}

interface Produced {
  aggregateId?: string
  aggregateType?: string
  type?: string
  data?: unknown
  subject?: string
  headers?: unknown
}

async function produce(db: Pick<Database, 'query'>, events: Produced[]): Promise<string[]> {
  const ids: string[] = []
  for (const {
    aggregateId = randomUUID(),
    aggregateType = 'charge',
    type = 'captured',
    data = {},
    subject,
    headers,
  } of events) {
    const id = randomUUID()
    await db.query(
      `insert into billing.outbox (id, tenant_id, aggregate_type, aggregate_id, type, data, subject, headers)
       values ($1, $2, $3, $4, $5, $6, $7, $8)`,
      [
        id,
        randomUUID(),
        aggregateType,
        aggregateId,
        type,
        JSON.stringify(data),
        subject ?? null,
        headers ? JSON.stringify(headers) : null,
      ],
    )
    ids.push(id)
  }
  return ids
}

async function relayed(one: Relay): Promise<Extract<RelayPass, { kind: 'relayed' }>> {
  const sum = { kind: 'relayed' as const, published: 0, quarantined: 0, held: 0, more: false }
  for (;;) {
    const pass = await one.pass()
    if (pass.kind !== 'relayed') throw new Error(`the pass ended ${JSON.stringify(pass)}`)
    sum.published += pass.published
    sum.quarantined += pass.quarantined
    sum.held += pass.held
    if (!pass.more) return sum
  }
}

async function stream(): Promise<StoredMessage[]> {
  const messages: StoredMessage[] = []
  for await (const message of nats.client.messages(STREAM, 1, { payloads: true })) messages.push(message)
  return messages
}
const idsInStream = async () => (await stream()).map(({ headers }) => headers.get('Nats-Msg-Id'))

describe('what goes over the wire', () => {
  it('is a CloudEvents 1.0 event with its place in headers, and numbers keep every digit', async () => {
    await freshStream()
    const id = randomUUID()
    const tenant = randomUUID()
    await database.service.query(
      `insert into billing.outbox (id, tenant_id, aggregate_type, aggregate_id, type, data, headers)
       values ($1, $2, 'charge', 'ch "1"', 'captured', '{"amount": 123456789012345678901234567890.10, "name": "احمد"}', '{"traceparent": "00-ab"}')`,
      [id, tenant],
    )
    await relayed(relay())
    const [message] = await stream()
    expect(message?.subject).toBe('billing.evt.charge.captured')
    expect(Object.fromEntries(message?.headers ?? [])).toMatchObject({
      'Nats-Msg-Id': id,
      tenant_id: tenant,
      aggregate_type: 'charge',
      aggregate_id: 'ch "1"',
      traceparent: '00-ab',
    })
    const text = Buffer.from(message?.payload ?? []).toString()
    expect(JSON.parse(text)).toMatchObject({
      specversion: '1.0',
      id,
      source: '/billing',
      type: 'billing.charge.captured',
      subject: 'charge/ch "1"',
      datacontenttype: 'application/json',
      tenantid: tenant,
      data: { name: 'احمد' },
    })
    expect(text).toContain('123456789012345678901234567890.10')
    expect(Date.parse(JSON.parse(text).time)).not.toBeNaN()
  })

  it('is whole whatever its length and script, a message larger than a socket takes at once among them', async () => {
    await freshStream()
    const texts = [0, 1, 500, 21_000, 65_000, 300_000, 3].flatMap((length) => [
      'x'.repeat(length),
      'کابل'.repeat(length / 4),
      '🩺'.repeat(length / 8),
    ])
    const ids = await produce(
      database.service,
      texts.map((text) => ({ data: { text }, aggregateId: `خانه ${text.length % 7}` })),
    )
    await relayed(relay({ leaseTtlMs: 10_000 }))
    const received = new Map(
      (await stream()).map(({ headers, payload }) => [
        headers.get('Nats-Msg-Id'),
        Buffer.from(payload).toString(),
      ]),
    )
    for (const [i, id] of ids.entries()) {
      const event = JSON.parse(received.get(id) ?? 'null')
      expect(event).toMatchObject({ id, subject: expect.stringMatching(/^charge\/خانه \d$/) })
      // Compared apart, so that a difference is not printed in full.
      expect(event.data.text === texts[i]).toBe(true)
    }
  })

  it('escapes in headers and in JSON what an aggregate is called', async () => {
    await freshStream()
    const names = ['a"b\\c', 'line\nbreak\r\nX: y', 'tab\t', '', '1/2', 'ü']
    await produce(
      database.service,
      names.map((aggregateId) => ({ aggregateId, subject: 'billing.evt.charge.named' })),
    )
    await relayed(relay({ leaseTtlMs: 10_000 }))
    const messages = await stream()
    expect(messages.map(({ payload }) => JSON.parse(Buffer.from(payload).toString()).subject)).toEqual(
      names.map((name) => `charge/${name}`),
    )
    expect(messages.every(({ headers }) => !headers.has('X'))).toBe(true)
  })
})

describe('a mapped outbox, whose ids and tenants may be any text', () => {
  it('cannot break out of headers or JSON', () => {
    const text = 'a"b\\\r\nNats-Msg-Id: x'
    const row = {
      seq: '1',
      id: text,
      tenantId: text,
      aggregateType: 'charge',
      aggregateId: text,
      type: 'captured',
      data: '{}',
      headers: null,
      subject: null,
      occurredAt: '2026-11-22 05:00:00.123456+00',
    }
    const wrapped = envelope(row, { service: 'billing', maxPayload: 1_048_576, dataIsJsonb: false })
    if (wrapped.kind !== 'message') throw new Error(wrapped.detail)
    expect(wrapped.message.headers.match(/^Nats-Msg-Id: /gm)).toHaveLength(1)
    expect(JSON.parse(wrapped.message.payload)).toMatchObject({
      id: text,
      tenantid: text,
      subject: `charge/${text}`,
      time: '2026-11-22T05:00:00.123456Z',
    })
  })
})

describe('a backlog, which is streamed as bytes', () => {
  it('goes over the wire as each of its events would alone, whatever its script, headers and size', async () => {
    await freshStream()
    const shapes: Produced[] = [
      { data: { n: 1 } },
      { aggregateId: 'بیمار-۴۲', data: { name: 'زرغونه', note: 'ټ ډ ړ ږ ښ ګ ڼ ې ۍ' } },
      { aggregateId: 'a "quoted" \\ id', data: 'text' },
      { aggregateId: '😀'.repeat(40), data: null },
      { type: 'captured-late', subject: 'billing.evt.charge.special', headers: { traceparent: '00-ab' } },
      { data: { pad: 'س'.repeat(150_000) } },
      { data: { pad: 'x'.repeat(400_000) } },
    ]
    await produce(
      database.service,
      Array.from({ length: 70 }, (_, n) => shapes[n % shapes.length]!),
    )
    await using connection = await database.db.connection()
    const reader = await openWindowReader(connection, outboxSource(SERVICE), { maxDataBytes: 2 * 1_048_576 })
    const alone = (await reader.read(NOTHING_DONE, 100))!.rows.map((row) => {
      const wrapped = envelope(row, { service: SERVICE, maxPayload: 1_048_576, dataIsJsonb: true })
      if (wrapped.kind !== 'message') throw new Error(wrapped.detail)
      const { subject, headers, payload } = wrapped.message
      return { subject, headers, payload }
    })
    expect((await relayed(relay({ pageSize: 8, leaseTtlMs: 10_000 }))).published).toBe(70)
    const inStream = (await stream()).map(({ subject, headers, payload }) => ({
      subject,
      headers: `NATS/1.0\r\n${[...headers].map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`,
      payload: Buffer.from(payload).toString(),
    }))
    const order = ({ headers }: { headers: string }) => Number(/^agg_seq: (\d+)/m.exec(headers)?.[1])
    expect(inStream.sort((a, b) => order(a) - order(b))).toEqual(alone)
  })

  it('knows what was stored wherever the network cuts the answers', async () => {
    await freshStream()
    const { hostname, port, username, password } = new URL(nats.server.url)
    await using cutter = await cutAnswers(hostname, Number(port))
    const one = relay({ leaseTtlMs: 10_000 }, `nats://${username}:${password}@127.0.0.1:${cutter.port}`)
    const ids = await produce(
      database.service,
      Array.from({ length: 150 }, (_, n) => ({ aggregateId: `a${n % 50}` })),
    )
    expect((await relayed(one)).published).toBe(150)
    expect((await idsInStream()).sort()).toEqual(ids.sort())
  })

  it('is taken up where it was when the database ends the stream in its middle', async () => {
    await freshStream()
    const one = relay({ leaseTtlMs: 10_000 })
    await relayed(one)
    const ids = await database.service.transaction(async (tx) => {
      const tenant = randomUUID()
      await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenant])
      const rows = await tx.query<{ id: string }>(
        `insert into billing.outbox (tenant_id, aggregate_type, aggregate_id, type, data)
         select $1, 'charge', n::text, 'captured', jsonb_build_object('pad', repeat('x', 2000))
         from generate_series(1, 15000) n returning id::text`,
        [tenant],
      )
      return rows.map(({ id }) => id)
    })
    // With NATS paused the stream of rows stands still in its middle: these are more than are in flight and in buffers.
    await nats.server.pause()
    const passing = one.pass().catch((error: unknown) => error)
    await expect
      .poll(async () => {
        const [copying] = await database.db.query<{ ended: boolean | null }>(
          `select bool_and(pg_terminate_backend(pid)) as ended from pg_stat_activity where query like 'copy (%'`,
        )
        return copying?.ended
      })
      .toBe(true)
    await nats.server.resume()
    expect(await passing).toMatchObject({ code: 'POSTGRES_UNREACHABLE' })
    await relayed(one)
    expect(await idsInStream()).toEqual(ids)
  })
})

describe('no event lost, none out of order', () => {
  it('publishes what a transaction committed late, and what others committed meanwhile is not delayed by it', async () => {
    await freshStream()
    const one = relay()
    await using slow = await database.service.connection()
    await slow.query('begin')
    const late = await produce(slow, [{}, {}])
    const prompt = await produce(database.service, [{}, {}, {}])
    expect((await relayed(one)).published).toBe(3)
    const afterwards = await produce(database.service, [{}])
    expect((await relayed(one)).published).toBe(1)
    expect(await idsInStream()).toEqual([...prompt, ...afterwards])
    await slow.query('commit')
    expect((await relayed(one)).published).toBe(2)
    expect(await idsInStream()).toEqual([...prompt, ...afterwards, ...late])
  })

  it('drains a backlog larger than a page in the order of each aggregate, late commits among it', async () => {
    await freshStream()
    await using slow = await database.service.connection()
    await slow.query('begin')
    await produce(slow, [{ aggregateId: 'late' }])
    await database.service.query(
      `insert into billing.outbox (tenant_id, aggregate_type, aggregate_id, type, data)
       select gen_random_uuid(), 'charge', (i % 7)::text, 'captured', '{}' from generate_series(1, 2000) i`,
    )
    const one = relay({ pageSize: 64, leaseTtlMs: 10_000 })
    expect((await relayed(one)).published).toBe(2000)
    await slow.query('commit')
    await database.service.query(
      `insert into billing.outbox (tenant_id, aggregate_type, aggregate_id, type, data)
       select gen_random_uuid(), 'charge', (i % 7)::text, 'captured', '{}' from generate_series(1, 1000) i`,
    )
    expect((await relayed(one)).published).toBe(1001)
    const lastOf = new Map<string, number>()
    for (const { headers } of await stream()) {
      const aggregate = headers.get('aggregate_id') ?? ''
      const place = Number(headers.get('agg_seq'))
      expect(place).toBeGreaterThan(lastOf.get(aggregate) ?? 0)
      lastOf.set(aggregate, place)
    }
    expect(lastOf.size).toBe(8)
  })

  it('ignores what was rolled back', async () => {
    await freshStream()
    await expect(
      database.service.transaction(async (tx) => {
        await produce(tx, [{}])
        throw new Error('no')
      }),
    ).rejects.toThrow('no')
    expect((await relayed(relay())).published).toBe(0)
  })

  it('does not publish twice what a relay published and could not record, even past the dedupe window', async () => {
    await freshStream(100)
    const crashed = relay()
    const ids = await produce(database.service, [{}, {}, {}])
    expect((await relayed(crashed)).published).toBe(3)
    // As kill -9 leaves it: published, no position saved, lease not given back.
    await database.owner.query('delete from tabib.outbox_progress')
    await database.owner.query(`update tabib.outbox_lease set expires_at = now() - interval '1 s'`)
    await until(async () => {
      const probe = await nats.client.stream(STREAM)
      return Date.now() - Date.parse(probe?.state.last_ts ?? '') > 300
    })
    const more = await produce(database.service, [{}])
    await relayed(relay())
    expect(await idsInStream()).toEqual([...ids, ...more])
  })

  it('lets one relay publish at a time, and a standby take over when the lease is given back', async () => {
    await freshStream()
    const first = relay()
    const second = relay()
    await produce(database.service, [{}])
    expect(await first.pass()).toMatchObject({ kind: 'relayed', published: 1 })
    expect(await second.pass()).toMatchObject({ kind: 'standby' })
    await first[Symbol.asyncDispose]()
    await produce(database.service, [{}])
    expect((await relayed(second)).published).toBe(1)
  })

  it('fences a relay whose lease was taken: it sends nothing, records nothing, and stands by', async () => {
    await freshStream()
    const paused = relay()
    await produce(database.service, [{}])
    expect((await relayed(paused)).published).toBe(1)
    await database.owner.query(`update tabib.outbox_lease set expires_at = now() - interval '1 s'`)
    const successor = relay({ leaseTtlMs: 60_000 })
    expect((await relayed(successor)).published).toBe(0)
    await until(async () => {
      const pass = await paused.pass()
      return pass.kind === 'standby'
    })
    await produce(database.service, [{}])
    expect((await relayed(successor)).published).toBe(1)
    expect((await stream()).length).toBe(2)
  })

  it('goes on where it was when NATS comes back after a kill', async () => {
    await freshStream()
    const one = relay()
    const before = await produce(database.service, [{}])
    await relayed(one)
    await nats.server.kill()
    const during = await produce(database.service, [{}, {}])
    expect(await one.pass()).toMatchObject({ kind: 'blocked' })
    await nats.server.restart()
    await until(async () => (await one.pass()).kind === 'relayed')
    await relayed(one)
    expect(await idsInStream()).toEqual([...before, ...during])
  })

  it('takes no answer in time for no answer, and publishes nothing twice when NATS wakes up', async () => {
    await freshStream()
    const one = relay()
    const before = await produce(database.service, [{}])
    await relayed(one)
    await nats.server.pause()
    const during = await produce(database.service, [{ aggregateId: 'a' }, { aggregateId: 'a' }])
    expect((await one.pass()).kind).not.toBe('relayed')
    await nats.server.resume()
    await until(async () => (await one.pass()).kind === 'relayed')
    await relayed(one)
    expect(await idsInStream()).toEqual([...before, ...during])
  })

  it('refuses a database that was restored elsewhere, and says what to type', async () => {
    await freshStream()
    const one = relay()
    await produce(database.service, [{}])
    await relayed(one)
    await one[Symbol.asyncDispose]()
    await database.owner.query(`update tabib.outbox_progress set system_identifier = '1'`)
    await expect(relay().pass()).rejects.toMatchObject({
      code: 'OUTBOX_RESTORED',
      suggestions: [expect.stringContaining('tabib outbox reset --service billing'), expect.any(String)],
    })
  })
})

describe('poison', () => {
  const POISON: [string, Produced, string][] = [
    ['data over max_payload', { data: { pad: randomHex(600_000) } }, 'too-large'],
    ['a wildcard in the subject', { subject: 'billing.evt.charge.*' }, 'bad-subject'],
    ['a space in the type', { type: 'was captured' }, 'bad-subject'],
    ['an empty aggregate type', { aggregateType: '' }, 'bad-subject'],
    ["a subject outside the service's", { subject: 'communication.evt.charge.captured' }, 'bad-subject'],
    ['a header with a line break', { headers: { note: 'a\r\nNats-Msg-Id: x' } }, 'bad-header'],
    ["a header that is the relay's own", { headers: { 'Nats-Msg-Id': 'x' } }, 'bad-header'],
  ]

  it.each(POISON)('%s goes to quarantine whole, and other aggregates go on', async (_what, event, reason) => {
    await freshStream()
    const [bad] = await produce(database.service, [{ aggregateId: 'bad', ...event }])
    const [good] = await produce(database.service, [{ aggregateId: 'good' }])
    expect(await relayed(relay())).toMatchObject({ published: 1, quarantined: 1 })
    expect(await idsInStream()).toEqual([good])
    const rows = await database.db.query(
      `select event_id, reason, state, convert_from(payload, 'UTF8')::jsonb = (select data from billing.outbox where id = $1) as whole
       from tabib.quarantine`,
      [bad],
    )
    expect(rows).toEqual([{ event_id: bad, reason, state: 'open', whole: true }])
  })

  it('that the stream refuses is tried a bounded number of times', async () => {
    await nats.client.ensureStream({ name: STREAM, subjects: [`${SERVICE}.evt.>`], max_msg_size: 1_000 })
    const [bad] = await produce(database.service, [{ data: { pad: 'x'.repeat(2_000) } }])
    const [good] = await produce(database.service, [{}])
    expect(await relayed(relay())).toMatchObject({ published: 1, quarantined: 1 })
    expect(await idsInStream()).toEqual([good])
    expect(await database.db.query('select event_id, reason, attempts from tabib.quarantine')).toEqual([
      { event_id: bad, reason: 'refused', attempts: 5 },
    ])
    expect(await database.db.query(`select mode, state, occurrences from tabib.incident`)).toContainEqual({
      mode: 'billing/FM-17',
      state: 'open',
      occurrences: 1,
    })
  })

  it('holds later events of its aggregate, and releases all in order once it is redriven', async () => {
    await nats.client.ensureStream({ name: STREAM, subjects: [`${SERVICE}.evt.>`], max_msg_size: 1_000 })
    const one = relay()
    const ids = await produce(database.service, [
      { aggregateId: 'a' },
      { aggregateId: 'a', data: { pad: 'x'.repeat(2_000) } },
      { aggregateId: 'a' },
      { aggregateId: 'b' },
      { aggregateId: 'a' },
    ])
    expect(await relayed(one)).toMatchObject({ published: 2, quarantined: 1, held: 2 })
    expect(await idsInStream()).toEqual([ids[0], ids[3]])
    await nats.client.ensureStream({ name: STREAM, subjects: [`${SERVICE}.evt.>`], max_msg_size: -1 })
    await database.db.query(`update tabib.quarantine set state = 'redriving' where reason = 'refused'`)
    const later = await produce(database.service, [{ aggregateId: 'a' }])
    await until(async () => {
      await relayed(one)
      return (await idsInStream()).length === 6
    })
    expect(await idsInStream()).toEqual([ids[0], ids[3], ids[1], ids[2], ids[4], ...later])
    expect(await database.db.query(`select distinct state from tabib.quarantine`)).toEqual([
      { state: 'redriven' },
    ])
  })

  it('is passed by under the policy skip', async () => {
    await freshStream()
    const ids = await produce(database.service, [
      { aggregateId: 'a', type: 'bad type' },
      { aggregateId: 'a' },
    ])
    expect(await relayed(relay({ poison: 'skip' }))).toMatchObject({ published: 1, quarantined: 1, held: 0 })
    expect(await idsInStream()).toEqual([ids[1]])
  })
})

describe('an event that kills the relay', () => {
  it('is found by its attempts, set aside unread, and the rest is published', async () => {
    await freshStream()
    const ids = await produce(database.service, [{}, {}, {}, {}])
    // Every predecessor died: first among a batch, then three times with the first event alone.
    await database.owner.query(
      `update tabib.outbox_lease set released = false, holder = 'dead', expires_at = now() - interval '1 s'`,
    )
    await database.db.query(
      `insert into tabib.outbox_attempt (service, suspects, event_id, attempts) values ('billing', 4, $1, 3)`,
      [ids[0]],
    )
    const result = await relayed(relay())
    expect(result).toMatchObject({ published: 3, quarantined: 1 })
    expect(await database.db.query('select event_id, reason from tabib.quarantine')).toEqual([
      { event_id: ids[0], reason: 'crashes-relay' },
    ])
    expect(await idsInStream()).toEqual(ids.slice(1))
    expect(await database.db.query('select * from tabib.outbox_attempt')).toEqual([])
  })

  it('is found when it comes from the quarantine, goes back there, and the rest is published', async () => {
    await freshStream()
    const [bad] = await produce(database.service, [{ aggregateType: 'bad type' }])
    await relayed(relay())
    await database.db.query(`update tabib.quarantine set state = 'redriving'`)
    const ids = await produce(database.service, [{}, {}])
    // Three predecessors died of it since it was redriven.
    await database.owner.query(
      `update tabib.outbox_lease set released = false, holder = 'dead', expires_at = now() - interval '1 s'`,
    )
    for (let death = 1; death <= 3; death++) await recordSingle(database, SERVICE, bad!)
    expect(await relayed(relay())).toMatchObject({ published: 2, quarantined: 0 })
    expect(await database.db.query('select event_id, state, detail from tabib.quarantine')).toEqual([
      { event_id: bad, state: 'open', detail: expect.stringContaining('died 3 times') },
    ])
    expect(await idsInStream()).toEqual(ids)
    expect(await database.db.query('select * from tabib.outbox_attempt')).toEqual([])
  })

  it('is not counted where the process lived on and waited for an acknowledgement', async () => {
    await recordBatch(database, SERVICE, 1)
    expect(await recordSingle(database, SERVICE, 'a')).toBe(1)
    await recordSurvival(database, SERVICE, new Promise(() => {}))
    expect(await recordSingle(database, SERVICE, 'a')).toBe(1)
    expect(await recordSingle(database, SERVICE, 'a')).toBe(2)
    expect(await recordSingle(database, SERVICE, 'b')).toBe(1)
  })

  it('is not suspected when the relay lives on', async () => {
    await freshStream()
    await produce(database.service, [{}, {}])
    await database.owner.query(
      `update tabib.outbox_lease set released = false, holder = 'dead', expires_at = now() - interval '1 s'`,
    )
    expect(await relayed(relay())).toMatchObject({ published: 2, quarantined: 0 })
  })
})

describe('a replay', () => {
  it('publishes all that is planned again in order, nothing published since, and typed again nothing', async () => {
    await freshStream()
    const publishAll = async () => {
      await using one = relay({ leaseTtlMs: 10_000 })
      await relayed(one)
    }
    await produce(database.service, [{}])
    await database.service.query(
      `insert into billing.outbox (tenant_id, aggregate_type, aggregate_id, type, data)
       select $1, 'charge', 'a' || i % 7, 'refunded', '{}' from generate_series(1, 2100) i`,
      [randomUUID()],
    )
    await publishAll()
    const app = { db: database.db, config: loadConfig({ env: {}, cwd: '/' }), nats: nats.client }
    const filter = { service: SERVICE, since: new Date(Date.now() - 60_000), type: 'refunded' } as const
    const plan = await planReplay(app, filter)
    expect(plan.events).toBe(2_100)

    await produce(database.service, [{ type: 'refunded' }])
    await publishAll()
    const before = (await stream()).length
    const options = { plan, planHash: 'f'.repeat(64) }
    await applyReplay(app, filter, options)
    expect(await applyReplay(app, filter, options)).toMatchObject({ unpublishable: [] })
    const again = (await stream()).slice(before)
    expect(again.map(({ headers }) => Number(headers.get('agg_seq')))).toEqual(
      Array.from({ length: 2_100 }, (_, i) => Number(plan.firstSeq) + i),
    )
  })
})

async function until(met: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 15_000
  while (!(await met())) {
    if (performance.now() > deadline) throw new Error('not met within 15 s')
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

// Random, so that it does not shrink when it is stored.
function randomHex(bytes: number): string {
  return Array.from({ length: Math.ceil(bytes / 16) }, () => randomUUID().replaceAll('-', '')).join('')
}
