import { join } from 'node:path'
import { execa } from 'execa'
import { expect, test } from 'vitest'
import { packageRoot } from '../../src/package-root.ts'
import { useDatabase } from '../support/database.ts'

const database = useDatabase()

/** The pipeline's own line (docs/isolation.md), on a database that all migrations have run on. */
const check = (...argv: string[]) => {
  const waivers = join(packageRoot(), 'isolation-waivers.yaml')
  return execa(
    process.execPath,
    [join(packageRoot(), 'bin/run.js'), 'isolation', 'check', '--waivers', waivers, '--json', ...argv],
    { env: { TABIB_OWNER_DATABASE_URL: database.url('tabib_owner') }, reject: false },
  )
}

test.each([[], ['--live']])('tabib keeps its own tenants apart %s', async (...argv) => {
  const { stdout, exitCode } = await check(...argv)
  const { result } = JSON.parse(stdout)
  const { counts, findings } = result
  expect(findings.filter(({ waived }: { waived: boolean }) => !waived)).toEqual([])
  expect(counts).toMatchObject({ failed: 0, warnings: 0, infos: 0 })
  expect(exitCode).toBe(0)
  // Every table that a service reaches was tried.
  expect(result.attempts).toMatch(/in (\d+) of \1 tables/)
})

test('a migration that switches it off stops the release', async () => {
  await database.owner.query('alter table billing.charge disable row level security')
  const { stdout, exitCode } = await check()
  expect(exitCode).toBe(1)
  const found = JSON.parse(stdout).result.findings.filter(({ waived }: { waived: boolean }) => !waived)
  expect(found).toContainEqual(expect.objectContaining({ id: 'isolation/rls-off', object: 'billing.charge' }))
  expect(found).toContainEqual(
    expect.objectContaining({ id: 'isolation/live-read', object: 'billing.charge' }),
  )
})

test('what a migration left open is closed by one command, and what was read is told', async () => {
  const tabib = async (...argv: string[]) => {
    const { stdout } = await execa(
      process.execPath,
      [join(packageRoot(), 'bin/run.js'), 'isolation', ...argv, '--json'],
      {
        env: {
          TABIB_DATABASE_URL: database.url('tabib'),
          TABIB_OWNER_DATABASE_URL: database.url('tabib_owner'),
        },
        reject: false,
      },
    )
    return JSON.parse(stdout)
  }
  await database.owner.query('alter table communication.message no force row level security')
  await database.service.query('select from billing.charge')
  expect((await tabib('exposure')).result).toMatchObject({
    source: 'table statistics',
    tables: ['billing.charge', 'communication.message'],
  })
  expect((await tabib('exposure', 'nonsense')).error.code).toBe('USAGE')
  expect((await tabib('restore')).error.code).toBe('CONFIRMATION_REQUIRED')
  const restored = await tabib('restore', '--yes')
  expect(restored.result.tables).toEqual(['billing.charge', 'communication.message'])
  expect((await tabib('restore', '--yes')).result.tables).toEqual([])
  const trail = await database.db.query<{ phase: string; targets: string[] }>(
    `select record->>'phase' as phase, record->'targets' as targets from tabib.audit where record->>'command' = 'isolation restore' order by seq`,
  )
  expect(trail).toMatchObject([
    { phase: 'before', targets: ['billing.charge', 'communication.message'] },
    { phase: 'after' },
  ])
  expect(await database.service.query('select from billing.charge')).toEqual([])
})
