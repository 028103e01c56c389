import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { findProgram, missingError, requirePrograms } from '../../src/sandbox/servers/find.ts'

test('a program on PATH is taken before one in the usual folders', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tabib-find-'))
  await writeFile(join(folder, 'nats-server'), '', { mode: 0o755 })
  expect(findProgram('nats-server', folder)).toBe(join(folder, 'nats-server'))
  expect(findProgram('nats-server', '')).not.toBe(join(folder, 'nats-server'))
  await rm(folder, { recursive: true })
})

test('the three servers are found where their packages put them', async () => {
  const found = await requirePrograms(['postgres', 'initdb', 'nats-server', 'redis-server'])
  expect(Object.keys(found).sort()).toEqual(['initdb', 'nats-server', 'postgres', 'redis-server'])
  expect(found.postgres).toMatch(/\/postgres$/)
})

test('what is missing is named with the command for each package manager', () => {
  const error = missingError(['postgres', 'initdb', 'nats-server'])
  expect(error).toMatchObject({ code: 'SERVER_MISSING', exitCode: 3 })
  expect(error.message).toContain('postgres, initdb, nats-server')
  expect(error.suggestions).toEqual([
    'sudo apt-get update && sudo apt-get install -y --no-install-recommends postgresql nats-server',
    'sudo dnf install -y postgresql-server nats-server',
    'brew install postgresql@17 nats-server',
    'docker compose -f deploy/compose.yaml run --rm tabib up',
  ])
})
