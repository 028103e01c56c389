import { describe, expect, test } from 'vitest'
import { TabibError } from '../../src/errors.ts'
import { assertSandboxAllowed } from '../../src/sandbox/world.ts'
import { useDatabase } from '../support/database.ts'
import { useWorld } from '../support/world.ts'

describe('a world', () => {
  const world = useWorld()

  test('has migrated schemas, and nobody in it but the plumbing is a superuser', async () => {
    for (const db of [world().db, world().service, world().owner]) {
      const [row] = await db.query<{ super: boolean; bypass: boolean }>(
        'select rolsuper as super, rolbypassrls as bypass from pg_roles where rolname = current_user',
      )
      expect(row).toEqual({ super: false, bypass: false })
    }
    const [schemas] = await world().db.query(
      `select count(*)::int as count from pg_namespace where nspname in ('virtual_care', 'billing', 'communication')`,
    )
    expect(schemas).toEqual({ count: 3 })
  })

  test('produces events as a service would, backdated when asked', async () => {
    const fresh = await world().produce('billing', { count: 3 })
    const old = await world().produce('billing', {
      count: 2,
      ageS: 60,
      aggregateId: 'ledger-1',
      type: 'posted',
    })
    const rows = await world().db.query<{ id: string; age: number; type: string }>(
      'select id, extract(epoch from now() - created_at)::float8 as age, type from billing.outbox order by seq',
    )
    expect(rows.map(({ id }) => id)).toEqual([...fresh, ...old])
    expect(rows.map(({ age }) => age >= 60)).toEqual([false, false, false, true, true])
    expect(rows.at(-1)?.type).toBe('posted')
  })

  test('tells a child process where its servers are', () => {
    expect(Object.keys(world().env).sort()).toEqual([
      'TABIB_ATTACHMENTS',
      'TABIB_CONFIG',
      'TABIB_DATABASE_URL',
      'TABIB_ERASURE_AUTHORITIES',
      'TABIB_ERASURE_SECRET_FILE',
      'TABIB_KEY_STORE',
      'TABIB_KEY_STORE_SECRET_FILE',
      'TABIB_LEDGER_SEALS',
      'TABIB_NATS_URL',
      'TABIB_OWNER_DATABASE_URL',
      'TABIB_REDIS_URL',
      'TABIB_STATEMENT_STORE',
      'TABIB_WORKER_PORT',
    ])
    expect(world().app.config).toMatchObject({ external: true, production: false })
  })

  test('runs the tabib that an operator runs', async () => {
    await using run = world().spawn(['--version'])
    expect(await run.exited).toBe(0)
    expect(run.stdout()).toContain('tabib/')
  })
})

describe('a cloned database', () => {
  const database = useDatabase()

  test('is migrated and knows its roles', async () => {
    const [row] = await database.db.query('select current_user as role, current_database() as name')
    expect(row).toEqual({ role: 'tabib', name: database.name })
    await database.service.query('select from virtual_care.patient')
    await expect(database.service.query('select from tabib.incident')).rejects.toMatchObject({
      code: 'NOT_AUTHORISED',
    })
  })
})

test('a rehearsal refuses when the configuration names servers of its own', () => {
  assertSandboxAllowed({ external: false, context: 'none' })
  const refusal = (() => {
    try {
      assertSandboxAllowed({ external: true, context: 'staging' })
    } catch (error) {
      return error as TabibError
    }
  })()
  expect(refusal).toBeInstanceOf(TabibError)
  expect(refusal).toMatchObject({ code: 'SANDBOX_ONLY', exitCode: 5 })
  expect(refusal?.message).toContain('staging')
})
