import { randomUUID } from 'node:crypto'
import { realpath } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { execa } from 'execa'
import { expect, inject, it } from 'vitest'
import { openNats } from '../../src/adapters/nats/client.ts'
import { type Database, openDatabase } from '../../src/adapters/postgres/client.ts'
import { openRelay, type Relay } from '../../src/domain/outbox/relay.ts'
import { applyReset, planReset } from '../../src/domain/outbox/reset.ts'
import { outboxSource } from '../../src/domain/outbox/source.ts'
import { requirePrograms } from '../../src/sandbox/servers/find.ts'
import { startPostgres } from '../../src/sandbox/servers/postgres.ts'
import { useDatabase } from '../support/database.ts'
import { useNats } from '../support/nats.ts'

const database = useDatabase()
const nats = useNats()
const config = {
  outbox: { poison: 'hold', retentionMs: 0, dedupeWindowMs: 0, replicas: 1, tables: {} },
} as const

function relay(db: Database): Relay {
  const client = openNats({ url: nats.server.url, onDisconnect: 'fail' })
  const one = openRelay(
    { db, nats: client },
    { source: outboxSource('billing'), holder: randomUUID(), poison: 'hold' },
  )
  return {
    pass: one.pass,
    async [Symbol.asyncDispose]() {
      await one[Symbol.asyncDispose]()
      await client.close()
    },
  }
}

async function produce(owner: Database, ageS: number): Promise<string> {
  const [row] = await owner.query<{ id: string }>(
    `insert into billing.outbox (tenant_id, aggregate_type, aggregate_id, type, data, created_at)
     values (gen_random_uuid(), 'charge', 'a', 'captured', '{}', now() - make_interval(secs => $1)) returning id`,
    [ageS],
  )
  return row!.id
}

async function idsInStream(): Promise<string[]> {
  const ids: string[] = []
  for await (const { headers } of nats.client.messages('billing-evt', 1))
    ids.push(headers.get('Nats-Msg-Id') ?? '')
  return ids
}

it('an outbox restored into another cluster is refused, reset once, and relayed on', {
  timeout: 120_000,
}, async () => {
  await nats.client.ensureStream({
    name: 'billing-evt',
    subjects: ['billing.evt.>'],
    duplicate_window: 100 * 1e6,
  })
  const old = await produce(database.owner, 7_200)
  const recent = await produce(database.owner, 60)
  {
    await using first = relay(database.db)
    expect(await first.pass()).toMatchObject({ published: 2 })
  }
  const unpublished = await produce(database.owner, 30)

  // A dump and a restore by an administrator, as after the loss of a cluster: row-level security hides rows from all others.
  await using elsewhere = await startPostgres({})
  const { name, ownerUrl } = await elsewhere.createDatabase()
  await using fresh = openDatabase({ url: ownerUrl, maxConnections: 2 })
  await fresh.query(
    'create role tabib_app; create role tabib_relay; create role tabib_auditor; create role tabib_erasure',
  )
  await elsewhere.grantRoles()
  const bin = dirname(await realpath((await requirePrograms(['postgres'])).postgres))
  const { stdout: dump } = await execa(join(bin, 'pg_dump'), [
    '--dbname',
    inject('adminUrl').replace(/[^/]+$/, database.name),
    '--no-comments',
  ])
  await execa(
    join(bin, 'psql'),
    ['--dbname', elsewhere.adminUrl.replace(/[^/]+$/, name), '--quiet', '--set', 'ON_ERROR_STOP=1'],
    {
      input: dump,
    },
  )
  await using restored = openDatabase({ url: elsewhere.url('tabib', name), maxConnections: 4 })
  expect(await restored.query('select count(*)::int as n from billing.outbox')).toEqual([{ n: 3 }])

  await using refused = relay(restored)
  await expect(refused.pass()).rejects.toMatchObject({ code: 'OUTBOX_RESTORED' })
  const since = new Date(Date.now() - 3_600_000)
  expect(await planReset({ db: restored, config }, { service: 'billing', since })).toMatchObject({
    events: 3,
    republish: 2,
  })
  const reset = { db: restored, nats: nats.client }
  expect(await applyReset(reset, { service: 'billing', since, runId: randomUUID() })).toEqual({
    republish: 2,
    settled: 1,
  })

  // `recent` is taken up again and found in the stream, though its dedupe window has long passed.
  await using again = relay(restored)
  expect(await again.pass()).toMatchObject({ kind: 'relayed', published: 1 })
  const later = await produce(fresh, 0)
  expect(await again.pass()).toMatchObject({ kind: 'relayed', published: 1 })
  expect(await again.pass()).toMatchObject({ kind: 'relayed', published: 0 })
  expect(await idsInStream()).toEqual([old, recent, unpublished, later])
  await expect(planReset({ db: restored, config }, { service: 'billing', since })).rejects.toMatchObject({
    code: 'NOT_NEEDED',
  })
})

it('looks in the stream from a time on, so that a reset need not read what was stored long before', async () => {
  const stream = 'reset-times'
  await nats.client.ensureStream({ name: stream, subjects: ['reset-times.>'] })
  const stored = async (id: string) => {
    const message = {
      subject: 'reset-times.a',
      messageId: id,
      headers: new Map(),
      payload: Buffer.from('{}'),
    }
    await nats.client.store(message)
    return (await nats.client.message(stream, (await nats.client.stream(stream))!.state.last_seq))!.time
  }
  const first = await stored('first')
  let last = await stored('2')
  // Times are read to the millisecond.
  for (let n = 3; last.getTime() === first.getTime(); n++) last = await stored(`${n}`)
  const seqs = async (from: Date) => {
    const found: number[] = []
    for await (const { seq } of nats.client.messages(stream, from)) found.push(seq)
    return found
  }
  const all = await seqs(new Date(0))
  expect(all[0]).toBe(1)
  expect(await seqs(last)).toEqual(all.slice(-1))
  expect(await seqs(new Date(last.getTime() + 60_000))).toEqual([])
})
