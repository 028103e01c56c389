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
