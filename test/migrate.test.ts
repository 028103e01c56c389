import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, expect, inject, test } from 'vitest'
import { openDatabase } from '../src/adapters/postgres/client.ts'
import { runLine } from './support/line.ts'

// An empty database: what a fresh deployment has.
const name = `test_${randomBytes(4).toString('hex')}`
const urlOf = (role: 'tabib' | 'tabib_owner') => inject('templateUrls')[role].replace(/[^/]+$/, name)

async function asAdmin(statement: string): Promise<void> {
  await using admin = openDatabase({ url: inject('adminUrl'), maxConnections: 1 })
  await admin.query(statement)
}
beforeAll(() => asAdmin(`create database ${name} owner tabib_owner`))
afterAll(() => asAdmin(`drop database ${name} with (force)`))

const tabib = (...argv: string[]) =>
  runLine(argv, {
    TABIB_DATABASE_URL: urlOf('tabib'),
    TABIB_OWNER_DATABASE_URL: urlOf('tabib_owner'),
    TABIB_NATS_URL: inject('natsUrl'),
  })

test('an empty database is found wanting, planned, migrated by the plan’s hash, and then left alone', async () => {
  const before = await tabib('migrate', 'status', '--json')
  expect(before.exitCode).toBe(1)
  expect(JSON.parse(before.stdout).result.pending[0]).toMatch(/^0001_/)

  const dry = await tabib('migrate', 'up', '--dry-run', '--json')
  expect(dry.exitCode).toBe(0)
  const { plan, planHash } = JSON.parse(dry.stdout).result
  expect(plan.migrations).toEqual(JSON.parse(before.stdout).result.pending)
  expect((await tabib('migrate', 'status')).exitCode).toBe(1)

  const unconfirmed = await tabib('migrate', 'up')
  expect(unconfirmed.exitCode).toBe(5)
  expect(unconfirmed.stderr).toContain('--yes')

  const applied = await tabib('migrate', 'up', '--apply', planHash, '--yes', '--json')
  expect(applied.stderr).toBe('')
  expect(JSON.parse(applied.stdout).result.migrations).toEqual(plan.migrations)

  const stale = await tabib('migrate', 'up', '--apply', planHash, '--yes')
  expect(stale.exitCode).toBe(6)
  const again = await tabib('migrate', 'up')
  expect(again).toMatchObject({ exitCode: 0, stdout: '√ nothing to do' })
  expect((await tabib('migrate', 'status')).exitCode).toBe(0)

  const trail = JSON.parse((await tabib('audit', 'list', '--json')).stdout).result
  expect(trail).toMatchObject([
    { command: 'migrate up', phase: 'after', outcome: 'ok' },
    { command: 'migrate up', phase: 'before' },
  ])
})
