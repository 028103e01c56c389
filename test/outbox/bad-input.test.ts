import { randomBytes, randomUUID } from 'node:crypto'
import { jetstreamManager } from '@nats-io/jetstream'
import { connect } from '@nats-io/transport-node'
import { describe, expect, it, onTestFinished } from 'vitest'
import { openNats } from '../../src/adapters/nats/client.ts'
import type { Database } from '../../src/adapters/postgres/client.ts'
import { openRelay, type Relay } from '../../src/domain/outbox/relay.ts'
import { type OutboxSource, outboxSource } from '../../src/domain/outbox/source.ts'
import { useDatabase } from '../support/database.ts'
import { useNats } from '../support/nats.ts'

const database = useDatabase()
const nats = useNats({ maxFileStore: 3_000_000 })

function relay(source: OutboxSource): Relay {
  const client = openNats({ url: nats.server.url, onDisconnect: 'fail' })
  const one = openRelay({ db: database.db, nats: client }, { source, holder: randomUUID(), poison: 'hold' })
  onTestFinished(async () => {
    await one[Symbol.asyncDispose]()
    await client.close()
  })
  return one
}

async function stored(stream: string): Promise<string[]> {
  const ids: string[] = []
  for await (const { headers } of nats.client.messages(stream, 1)) ids.push(headers.get('Nats-Msg-Id') ?? '')
  return ids
}

it('an existing outbox is relayed by its own names and not written to; what is not JSON goes to quarantine', async () => {
  await nats.client.ensureStream({ name: 'billing-evt', subjects: ['billing.evt.>'] })
  await database.owner.query(
    `create schema legacy;
     create table legacy.event_outbox (position bigint generated always as identity, event_id text, tx xid8 not null default pg_current_xact_id(),
       tenant text, kind text, entity text, name text, body text, at timestamptz default now());
     grant usage on schema legacy to tabib_relay; grant select on legacy.event_outbox to tabib_relay`,
  )
  const bodies: [string, string][] = [
    ['sound', '{"amount": 1e2, "text": "سلام \\ud83d\\ude00"}'],
    ['nan', '{"amount": NaN}'],
    ['infinite', '{"amount": 1e400}'],
    ['surrogate', '{"text": "\\ud800"}'],
    ['smuggled', '{}, "id": "another"'],
  ]
  for (const [id, body] of bodies) {
    await database.owner.query(
      `insert into legacy.event_outbox (event_id, tenant, kind, entity, name, body) values ($1, 't1', 'charge', $1, 'captured', $2)`,
      [id, body],
    )
  }
  const source = outboxSource('billing', {
    table: 'legacy.event_outbox',
    columns: {
      seq: 'position',
      id: 'event_id',
      xid: 'tx',
      tenant_id: 'tenant',
      aggregate_type: 'kind',
      aggregate_id: 'entity',
      type: 'name',
      data: 'body',
      headers: null,
      subject: null,
      occurred_at: 'at',
      created_at: 'at',
    },
  })
  expect(await relay(source).pass()).toMatchObject({ kind: 'relayed', published: 1, quarantined: 4 })
  expect(await stored('billing-evt')).toEqual(['sound'])
  const rows = await database.db.query(
    `select event_id, reason, convert_from(payload, 'UTF8') as body from tabib.quarantine order by seq`,
  )
  expect(rows).toEqual(
    bodies.slice(1).map(([event_id, body]) => ({ event_id, reason: 'unserialisable', body })),
  )
})

it('a stream without room refuses for now: nothing is lost, and the relay goes on when there is room', async () => {
  await nats.client.ensureStream({ name: 'communication-evt', subjects: ['communication.evt.>'] })
  const ids: string[] = []
  for (let i = 0; i < 60; i++) {
    const id = randomUUID()
    await database.service.query(
      `insert into communication.outbox (id, tenant_id, aggregate_type, aggregate_id, type, data) values ($1, gen_random_uuid(), 'message', $2, 'sent', $3)`,
      [id, String(i), JSON.stringify({ pad: randomBytes(50_000).toString('base64') })],
    )
    ids.push(id)
  }
  const one = relay(outboxSource('communication'))
  let pass = await one.pass()
  while (pass.kind === 'relayed' && pass.more) pass = await one.pass()
  expect(pass).toMatchObject({ kind: 'blocked', reason: expect.stringMatching(/storage|resources|maximum/) })
  expect(
    await database.db.query(
      `select count(*)::int as n from tabib.quarantine where service = 'communication'`,
    ),
  ).toEqual([{ n: 0 }])

  const before = await stored('communication-evt')
  expect(before.length).toBeLessThan(60)
  await purge('communication-evt')
  do pass = await one.pass()
  while (pass.kind === 'relayed' && pass.more)
  // The second half fits where the first half was.
  expect(pass.kind).toBe('relayed')
  expect(new Set([...before, ...(await stored('communication-evt'))])).toEqual(new Set(ids))
})

async function purge(stream: string): Promise<void> {
  const { hostname, port, username, password } = new URL(nats.server.url)
  const connection = await connect({ servers: `${hostname}:${port}`, user: username, pass: password })
  await (await jetstreamManager(connection)).streams.purge(stream)
  await connection.close()
}

describe('an existing outbox without transaction ids', () => {
  const source = outboxSource('virtual-care', {
    table: 'plain.events',
    columns: { xid: null, headers: null, subject: null, created_at: 'occurred_at' },
  })
  const insert = (db: Pick<Database, 'query'>, id: string) =>
    db.query(
      `insert into plain.events (id, tenant_id, aggregate_type, aggregate_id, type, data) values ($1, 't1', 'visit', $1, 'moved', '{}')`,
      [id],
    )
  const published = async (one: Relay): Promise<number> => {
    const pass = await one.pass()
    if (pass.kind !== 'relayed') throw new Error(JSON.stringify(pass))
    return pass.published
  }

  it('loses nothing that commits late, and gives up numbers that were rolled back', async () => {
    await nats.client.ensureStream({ name: 'virtual-care-evt', subjects: ['virtual-care.evt.>'] })
    await database.owner.query(
      `create schema plain;
       create table plain.events (seq bigserial primary key, id text, tenant_id text, aggregate_type text, aggregate_id text,
         type text, data jsonb, occurred_at timestamptz not null default now());
       grant usage on schema plain to tabib_relay; grant select on plain.events to tabib_relay`,
    )
    const one = relay(source)
    await using slow = await database.owner.connection()
    await slow.query('begin')
    await insert(slow, 'late-1')
    await insert(database.owner, 'prompt-1')
    expect(await published(one)).toBe(1)
    await insert(slow, 'late-2')
    await expect(
      database.owner.transaction(async (tx) => {
        await insert(tx, 'undone')
        throw new Error('no')
      }),
    ).rejects.toThrow('no')
    await insert(database.owner, 'prompt-2')
    expect(await published(one)).toBe(1)
    await slow.query('commit')
    expect(await published(one)).toBe(2)
    expect(await stored('virtual-care-evt')).toEqual(['prompt-1', 'prompt-2', 'late-1', 'late-2'])
    expect(await published(one)).toBe(0)
  })

  it('goes on from its numbers after a restart', async () => {
    await insert(database.owner, 'later')
    expect(await published(relay(source))).toBe(1)
  })
})
