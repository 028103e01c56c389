import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Database, openDatabase } from '../../src/adapters/postgres/client.ts'
import { asTenant } from '../../src/domain/sessions/tenant.ts'
import { type PgBouncerServer, startPgBouncer } from '../../src/sandbox/servers/pgbouncer.ts'
import { useDatabase } from '../support/database.ts'

// Two clients of a service behind one server connection: what one leaves on it the other finds.
const database = useDatabase()
const tenantId = randomUUID()
let pool: PgBouncerServer
const clients: Database[] = []

beforeAll(async () => {
  const url = database.url('service')
  pool = await startPgBouncer({ urls: [url] })
  for (const name of ['first', 'second']) {
    clients.push(openDatabase({ url: pool.through(url), maxConnections: 1, applicationName: name }))
  }
  await database.db.query(
    `insert into tabib.tenant (id, slug, name, region, currency) values ($1, 'kabul-1', 'a clinic', 'AF', 'AFN')`,
    [tenantId],
  )
  await asTenant(database.service, tenantId, (tx) =>
    tx.query(
      `insert into virtual_care.patient (id, tenant_id, name, language) values (gen_random_uuid(), $1, 'a patient', 'fa')`,
      [tenantId],
    ),
  )
})
afterAll(async () => {
  await Promise.all(clients.map((client) => client.close()))
  await pool[Symbol.asyncDispose]()
})

const patients = async (client: Database) => (await client.query('select from virtual_care.patient')).length

test('what tabib sets ends with its transaction, so that the next client sees nobody’s rows', async () => {
  const [first, second] = clients as [Database, Database]
  const seen = await asTenant(first, tenantId, async (tx) => {
    const [{ pid }] = (await tx.query<{ pid: number }>('select pg_backend_pid() as pid')) as [{ pid: number }]
    return { pid, patients: (await tx.query('select from virtual_care.patient')).length }
  })
  expect(seen.patients).toBe(1)
  const [{ pid }] = (await second.query<{ pid: number }>('select pg_backend_pid() as pid')) as [
    { pid: number },
  ]
  // The same server connection, or this would show nothing.
  expect(pid).toBe(seen.pid)
  expect(await patients(second)).toBe(0)
})

test('a transaction that failed leaves nothing either', async () => {
  const [first, second] = clients as [Database, Database]
  await expect(asTenant(first, tenantId, (tx) => tx.query('select 1 / 0'))).rejects.toThrow(
    'division by zero',
  )
  expect(await patients(second)).toBe(0)
})

test('a setting for the session reaches the next client: why a tenant is only ever set for a transaction', async () => {
  const [first, second] = clients as [Database, Database]
  await first.query(`select set_config('app.tenant_id', $1, false)`, [tenantId])
  try {
    expect(await patients(second)).toBe(1)
  } finally {
    await first.query('discard all')
  }
  expect(await patients(second)).toBe(0)
})
