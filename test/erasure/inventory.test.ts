import { afterAll, beforeAll, expect, inject, test } from 'vitest'
import { type Database, openDatabase } from '../../src/adapters/postgres/client.ts'
import { openRedis, type Redis } from '../../src/adapters/redis/client.ts'
import { checkInventory } from '../../src/domain/erasure/inventory/check.ts'
import { INVENTORY, listInventory } from '../../src/domain/erasure/inventory/index.ts'
import { columnsOf } from '../../src/domain/erasure/inventory/item.ts'
import { migrateUp } from '../../src/domain/schema/migrate.ts'
import { type RedisServer, startRedis } from '../../src/sandbox/servers/redis.ts'
import { useDatabase } from '../support/database.ts'
import { runLine } from '../support/line.ts'
import { useNats } from '../support/nats.ts'

const database = useDatabase()
const nats = useNats()
let redis: RedisServer
let cache: Redis
let admin: Database
beforeAll(async () => {
  redis = await startRedis()
  cache = openRedis({ url: redis.url })
  await cache.connect()
  admin = openDatabase({ url: inject('adminUrl').replace(/[^/]+$/, database.name), maxConnections: 1 })
  await migrateUp({ db: database.owner, nats: nats.client })
})
afterAll(async () => {
  cache?.disconnect()
  await admin?.close()
  await redis?.[Symbol.asyncDispose]()
})

const tabib = (...argv: string[]) =>
  runLine(['erasure', 'inventory', ...argv], {
    TABIB_DATABASE_URL: database.url('tabib'),
    TABIB_NATS_URL: nats.server.url,
    TABIB_REDIS_URL: redis.url,
  })

/** Rule and object of each finding that fails the check, sorted. */
const holes = async ({ allRows = true } = {}) => {
  const { findings } = await checkInventory(
    { db: database.db, nats: nats.client, redis: { cache: redis.url, queue: redis.url } },
    { allRows, signal: AbortSignal.timeout(60_000) },
  )
  return findings.map(({ id, object }) => `${id.replace('erasure/', '')} ${object}`).sort()
}

// A migration that fails here adds what it makes to src/domain/erasure/inventory/.
test('everything that the migrations make is classified, and nothing else', async () => {
  const { stdout, exitCode } = await tabib('--check', '--json')
  const { result } = JSON.parse(stdout)
  expect(result.findings).toEqual([])
  expect(result.notRun).toEqual([])
  expect(exitCode).toBe(0)
})

test('each thing has one class, and whatever is personal has somebody who erases it or a reason why nobody does', async () => {
  for (const { tables } of Object.values(INVENTORY)) {
    for (const [name, table] of Object.entries(tables)) {
      const { subjectKey = [], personal = [], pseudonymous = [], none = [], json = {} } = table
      const named = [...subjectKey, ...personal, ...pseudonymous, ...none, ...Object.keys(json)]
      expect([name, named.length]).toEqual([name, columnsOf(table).size])
    }
  }
  const left = listInventory().filter(
    ({ class: kind, erasure, hold, retention }) =>
      kind !== 'none' && !erasure && !hold && !retention.startsWith('P'),
  )
  expect(left).toEqual([])
})

test('the list is printed without any server', async () => {
  const { stdout, exitCode } = await runLine(['erasure', 'inventory', '--class', 'personal', '--json'], {})
  expect(exitCode).toBe(0)
  expect(JSON.parse(stdout).result).toContainEqual(
    expect.objectContaining({
      object: 'virtual_care.patient.phone',
      erasure: { by: 'virtual-care', how: 'delete' },
    }),
  )
})

test('what nobody classified is found, wherever it is stored', async () => {
  const { owner, service } = database
  const tenantId = '0193e3a1-0000-7000-8000-000000000001'
  await owner.query(
    `insert into tabib.tenant (id, slug, name, region, currency) values ($1, 'a', 'a', 'af-herat', 'AFN')`,
    [tenantId],
  )
  await admin.query('create extension postgres_fdw')
  await admin.query('grant usage on foreign data wrapper postgres_fdw to tabib_owner')
  await admin.query(`select lo_create(0)`)
  await owner.query(`create schema reports`)
  // None of these is a hole: a view stores nothing, a partition is its table's, an index no column.
  await owner.query(`create view reports.names as select name from virtual_care.patient`)
  await owner.query(
    `create table billing.outbox_p29990101 partition of billing.outbox for values from ('2999-01-01') to ('2999-01-02')`,
  )
  await owner.query(`comment on column virtual_care.patient.phone is 'a phone number'`)
  await owner.query(`create type billing.mood as enum ('0790123456')`)
  // These are.
  await owner.query(`alter table virtual_care.patient add column e_mail text,
    add column initials text generated always as (left(name, 1)) stored`)
  await owner.query(`create materialized view reports.phones as select phone from virtual_care.patient`)
  await owner.query(`create table "public"."Old Patients" (name text)`)
  await owner.query(`create domain billing.document as jsonb`)
  await owner.query(`alter table communication.thread add column papers billing.document[]`)
  await owner.query(`create table reports.detached (like virtual_care.patient)`)
  await owner.query(`create table reports.child (note text) inherits (communication.thread)`)
  await owner.query(`create server elsewhere foreign data wrapper postgres_fdw`)
  await owner.query(`create foreign table reports.far (phone text) server elsewhere`)
  await admin.query(`create publication everything for all tables`)
  await nats.client.ensureStream({ name: 'KV_sessions', subjects: ['$KV.sessions.>'] })
  await cache.set('sms:0790123456', 'x')
  await cache.set('tabib:idempotency:billing:t:r:k', '{}')
  await service.transaction(async (tx) => {
    await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
    await tx.query(
      `insert into billing.outbox (tenant_id, aggregate_type, aggregate_id, type, data)
       values ($1, 'charge', 'x', 'captured', '{"patientId": "a", "lines": [{"0790123456": {"note": "x"}}], "kind": null}')`,
      [tenantId],
    )
    await tx.query(
      `insert into communication.message (id, tenant_id, patient_id, channel, template, status)
       values (gen_random_uuid(), $1, gen_random_uuid(), 'sms', ' {"to": {"phone": "0790123456"}}', 'sent')`,
      [tenantId],
    )
  })
  await owner.query('grant usage on schema reports to tabib_auditor')
  const found = await holes()
  expect(found).toEqual(
    [
      'json-in-text communication.message.template',
      'large-object pg_largeobject',
      'outlet publication everything',
      'unclassified-column public."Old Patients"',
      'unclassified-column communication.thread.papers',
      'unclassified-column reports.child',
      'unclassified-column reports.detached',
      'unclassified-column reports.far',
      'unclassified-column reports.phones',
      'unclassified-column virtual_care.patient.e_mail',
      'unclassified-column virtual_care.patient.initials',
      'unclassified-key sms*',
      'unclassified-path billing.outbox.data',
      'unclassified-stream KV_sessions',
    ].sort(),
  )
  const { stdout, exitCode } = await tabib('--check', '--output', 'sarif')
  expect(exitCode).toBe(1)
  expect(stdout).not.toContain('0790123456')
  expect(stdout).toContain(
    "add 'e_mail' to 'virtual_care.patient' in src/domain/erasure/inventory/virtual-care.ts",
  )
})

test('what is classified and gone is found', async () => {
  await database.owner.query('alter table virtual_care.patient rename column language to tongue')
  await database.owner.query('drop table tabib.outbox_sample')
  await nats.client.deleteStream('billing-dlq')
  expect(await holes()).toEqual(
    expect.arrayContaining([
      'gone billing-dlq',
      'gone tabib.outbox_sample',
      'gone virtual_care.patient.language',
      'unclassified-column virtual_care.patient.tongue',
    ]),
  )
})
