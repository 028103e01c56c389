import { describe, expect, test } from 'vitest'
import type { Database } from '../../src/adapters/postgres/client.ts'
import { examineDocuments } from '../../src/domain/ledger/documents.ts'
import { verifyLedger } from '../../src/domain/ledger/verify.ts'
import { seedPlatform } from '../../src/sandbox/platform.ts'
import { useDatabase } from '../support/database.ts'

const OPTIONS = { seed: 7, scale: 0.02, today: new Date('2026-03-21T00:00:00Z') }

const TABLES = [
  'virtual_care.patient',
  'virtual_care.appointment',
  'virtual_care.session',
  'billing.charge',
  'communication.message',
]

/** Lets the owner see its own tables' rows: nobody else may see those of all tenants. */
async function unveil(owner: Database): Promise<void> {
  for (const table of TABLES) await owner.query(`alter table ${table} no force row level security`)
}

/** One digest a table, of its rows in the order of their ids. */
async function digests(owner: Database): Promise<string[]> {
  await unveil(owner)
  const digest = (table: string) =>
    `select md5(string_agg((to_jsonb(t) - '{created_at,due_at,account_id,transaction_id}'::text[])::text, '' order by id)) as digest
     from ${table} t`
  const rows = await owner.query<{ digest: string }>(TABLES.map(digest).join(' union all '))
  return rows.map((row) => row.digest)
}

describe('the platform', () => {
  const first = useDatabase()
  const second = useDatabase()
  const third = useDatabase()

  test('is the same for the same seed, and another for another', async () => {
    const counts = await seedPlatform(first, OPTIONS)
    expect(await seedPlatform(second, OPTIONS)).toEqual(counts)
    await seedPlatform(third, { ...OPTIONS, seed: 8 })
    const digest = await digests(first.owner)
    expect(await digests(second.owner)).toEqual(digest)
    expect(await digests(third.owner)).not.toEqual(digest)
    expect(counts.tenants).toBe(10)
    expect(counts.events).toBeGreaterThan(2_000)
    expect(counts.events).toBeLessThan(2_300)
  })

  test('has an event for every row, and no name or phone number in any of them', async () => {
    await unveil(first.owner)
    const [events] = await first.owner.query<{ missing: number; leaks: number }>(`
      with event as (
        select aggregate_id, data from virtual_care.outbox
        union all select aggregate_id, data from billing.outbox
        union all select aggregate_id, data from communication.outbox
      ), domain as (
        select id, name, phone from virtual_care.patient
      )
      select
        (select count(*)::int from domain where id::text not in (select aggregate_id from event)) as missing,
        (select count(*)::int from event join domain on event.data->>'patientId' = domain.id::text
         where event.data::text like '%' || domain.name || '%' or event.data::text like '%' || domain.phone || '%') as leaks`)
    expect(events).toEqual({ missing: 0, leaks: 0 })
  })

  test('has posted every fee, and the ledger verifies', async () => {
    const [fees] = await first.owner.query<{ charges: number; unposted: number }>(
      `select count(*)::int as charges, count(*) filter (where transaction_id is null or account_id is null)::int as unposted
       from billing.charge`,
    )
    expect(fees?.unposted).toBe(0)
    const keyStore = () => Promise.reject(new Error('not needed without seals'))
    const { findings, facts } = await verifyLedger({ db: first.db, keyStore }, {}, { folder: undefined })
    expect(findings).toEqual([])
    expect(await examineDocuments(first.db, {}, undefined)).toEqual([])
    expect(facts.transactions).toBe(fees?.charges)
  })

  test('starts a session before it ends, in the outbox too', async () => {
    const [row] = await first.db.query<{ wrong: number; sessions: number }>(`
      select count(*)::int as sessions, count(*) filter (where types <> '{started,ended}')::int as wrong
      from (select array_agg(type order by seq) as types from virtual_care.outbox
            where aggregate_type = 'session' group by aggregate_id) s`)
    expect(row?.wrong).toBe(0)
    expect(row?.sessions).toBeGreaterThan(0)
  })

  test('shows a service the rows of its tenant alone', async () => {
    const tenants = await first.db.query<{ id: string }>('select id from tabib.tenant')
    await first.service.transaction(async (tx) => {
      await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenants[0]?.id])
      const seen = await tx.query<{ tenant_id: string }>(
        'select distinct tenant_id from virtual_care.patient',
      )
      expect(seen).toEqual([{ tenant_id: tenants[0]?.id }])
    })
  })
})
