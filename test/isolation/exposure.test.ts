import { expect, test } from 'vitest'
import { openDatabase } from '../../src/adapters/postgres/client.ts'
import { exposureOf } from '../../src/domain/isolation/exposure.ts'
import { startPostgres } from '../../src/sandbox/servers/postgres.ts'

test('what was read is told by statement and role, without its values, where pg_stat_statements counts', async () => {
  await using server = await startPostgres({ settings: { shared_preload_libraries: 'pg_stat_statements' } })
  const { name, ownerUrl } = await server.createDatabase()
  await using owner = openDatabase({ url: ownerUrl, maxConnections: 1 })
  await using admin = openDatabase({ url: server.adminUrl.replace(/[^/]+$/, name), maxConnections: 1 })
  await owner.query(`
    create table charge (id int primary key, patient text);
    insert into charge select i, 'somebody' from generate_series(1, 7) i;
    grant select on charge to service`)
  // In a schema whose name must be quoted, as an operator may have put it.
  await admin.query('create schema "Watch"; create extension pg_stat_statements schema "Watch"')
  await admin.query('grant usage on schema "Watch" to tabib_owner; grant pg_read_all_stats to tabib_owner')
  await using service = openDatabase({ url: server.url('service', name), maxConnections: 1 })
  await service.query(`select patient from charge where patient = 'somebody'`)
  const { source, since, reads } = await exposureOf({ db: owner }, { tables: ['public.charge'] })
  expect({ source, since }).toEqual({ source: 'pg_stat_statements', since: expect.any(Date) })
  expect(reads).toContainEqual({
    table: 'public.charge',
    role: 'service',
    calls: 1n,
    rows: 7n,
    statement: 'select patient from charge where patient = $1',
  })
})

test('where the library was not loaded the table statistics tell how often', async () => {
  await using server = await startPostgres()
  const { name, ownerUrl } = await server.createDatabase()
  await using owner = openDatabase({ url: ownerUrl, maxConnections: 1 })
  await using admin = openDatabase({ url: server.adminUrl.replace(/[^/]+$/, name), maxConnections: 1 })
  await admin.query('create extension pg_stat_statements')
  await owner.query('create table charge (id int primary key)')
  const { source } = await exposureOf({ db: owner }, { tables: ['public.charge'] })
  expect(source).toBe('table statistics')
})
