import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { createApp } from '../src/app.ts'
import { failureMode } from '../src/catalog/failure-mode.ts'
import { readStatus } from '../src/catalog/status.ts'
import { loadConfig } from '../src/config.ts'
import { writeEvidence } from '../src/drill/evidence.ts'
import { useDatabase } from './support/database.ts'
import { runLine } from './support/line.ts'

const database = useDatabase()
let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tabib-status-'))
})
afterAll(() => rm(folder, { recursive: true }))
beforeEach(() => database.owner.query('delete from tabib.worker_heartbeat'))

const tabib = (argv: string[], databaseUrl: string = database.url('tabib')) =>
  runLine(argv, { HOME: folder, TABIB_DATABASE_URL: databaseUrl })

async function beat(ageS: number) {
  await database.db.query(
    `insert into tabib.worker_heartbeat (name, instance, host, pid, version, expected_every_s, beat_at)
     values ('outbox-relay', 'a', 'herat', 1, '0.1.0', 30, now() - make_interval(secs => $1))`,
    [ageS],
  )
}

describe('tabib status', () => {
  test('prints one line for a mode that is quiet, and exits 0', async () => {
    await beat(1)
    const { stdout, exitCode } = await tabib(['status', 'tabib/worker-stopped'])
    expect(stdout.split('\n')[0]).toBe(
      '√ tabib/worker-stopped: 100 % of the workers that should run have beaten in time (fires at < 1)',
    )
    expect(exitCode).toBe(0)
  })

  test('says why a mode fires, and what to type, and exits 1', async () => {
    await beat(600)
    const { stdout, exitCode } = await tabib(['status', 'tabib/worker-stopped'])
    expect(stdout).toContain('× tabib/worker-stopped: A background worker has stopped')
    expect(stdout).toContain('"name":"outbox-relay","host":"herat"')
    expect(stdout).toContain('Try: tabib worker run --all --once')
    expect(stdout).toContain('Runbook: runbooks/tabib/worker-stopped.md')
    expect(exitCode).toBe(1)
  })

  test('reports what fires as findings in JSON', async () => {
    await beat(600)
    const { stdout, exitCode } = await tabib(['status', 'tabib/worker-stopped', '--json'])
    const { status, result } = JSON.parse(stdout)
    expect(status).toBe('findings')
    expect(result.findings).toEqual([
      {
        id: 'tabib/worker-stopped',
        check: 'status',
        severity: 'critical',
        object: 'tabib',
        message: expect.stringContaining('0 % of the workers'),
        evidence: {
          value: 0,
          threshold: '< 1',
          stopped: [expect.objectContaining({ name: 'outbox-relay' })],
        },
        fix: 'tabib worker run --all --once',
        runbook: 'runbooks/tabib/worker-stopped.md',
        cacheKey: 'status:tabib/worker-stopped',
        waived: false,
      },
    ])
    expect(exitCode).toBe(1)
  })

  test('calls too little evidence unknown, never ok, and counts what is planned', async () => {
    const { stdout, exitCode } = await tabib(['status', '--service', 'tabib'])
    expect(stdout).toContain('‼ tabib/worker-stopped')
    expect(stdout).toMatch(/0 firing, 1 unknown, \d+ ok$/)
    expect(exitCode).toBe(0)
    const sync = await tabib(['status', '--service', 'sync'])
    expect(sync.stdout).toContain('0 firing, 0 unknown, 1 ok; 4 planned and not watched')
  })

  test('exits 3 when Postgres cannot be reached, naming it and not the password', async () => {
    const { stderr, exitCode } = await tabib(['status'], 'postgres://tabib:hush@127.0.0.1:1/tabib')
    expect(stderr).toContain('Postgres at 127.0.0.1:1/tabib is unreachable')
    expect(stderr).not.toContain('hush')
    expect(exitCode).toBe(3)
  })

  test('exits 2 for a mode that does not exist', async () => {
    const { stderr, exitCode } = await tabib(['status', 'tabib/worker-stoped'])
    expect(stderr).toContain('near it: tabib/worker-stopped')
    expect(exitCode).toBe(2)
  })
})

describe('tabib explain', () => {
  test('shows evidence, command, runbook and the last drill', async () => {
    await beat(600)
    const evidence = await mkdtemp(join(tmpdir(), 'tabib-evidence-'))
    onTestFinished(() => rm(evidence, { recursive: true }))
    await writeEvidence(evidence, [
      {
        id: '01930f6e-7c1a-7d2e-9b1f-3a5c6d7e8f90',
        mode: 'tabib/worker-stopped',
        title: 'A background worker has stopped',
        kind: 'drill',
        startedAt: '2026-11-20T05:00:00.000Z',
        passed: true,
        detectS: 0.4,
        mitigateS: 1.2,
        recoverS: 2,
        alongside: [],
        lost: [],
        steps: [],
      },
    ])
    const { stdout, exitCode } = await tabib(['explain', 'TABIB/worker-stopped', '--evidence', evidence])
    expect(stdout).toContain('× firing: 0 % of the workers')
    expect(stdout).toContain('tabib worker run --all --once')
    expect(stdout).toContain('runbooks/tabib/worker-stopped.md')
    expect(stdout).toContain(
      '2026-11-20T05:00:00.000Z passed: detected in 0.4 s, mitigated in 1.2 s, recovered in 2.0 s',
    )
    expect(exitCode).toBe(0)
  })

  test('can be read in the outage that it is about', async () => {
    const { stdout, stderr, exitCode } = await tabib(
      ['explain', 'tabib/worker-stopped'],
      'postgres://tabib@127.0.0.1:1/tabib',
    )
    expect(stdout).toContain('A background worker has stopped')
    expect(stderr).toContain('is unreachable')
    expect(exitCode).toBe(0)
  })

  test('shows a planned mode in the words of the specification', async () => {
    const { stdout } = await tabib(['explain', 'billing/FM-03'])
    expect(stdout).toContain('planned: nothing watches it yet')
    expect(stdout).toContain('Use cached entitlement for up to 5 min')
  })
})

describe('a detector', () => {
  const mode = (measure: () => Promise<{ value: number }>) =>
    failureMode({
      id: 'tabib/rehearsal',
      kind: 'alert',
      title: 'A detector under test',
      severity: 'info',
      detect: { metric: 'tabib_rehearsal', measure, fires: { above: 1 }, says: String, entails: [] },
      mitigate: { command: ['status'] },
      drill: { inject: async () => ({ async [Symbol.asyncDispose]() {} }), verify: async () => [] },
    })

  test('that never answers is unknown after its time, and delays no other', async () => {
    await using app = createApp(loadConfig({ env: {}, cwd: folder }))
    const [hanging, quick] = await readStatus(
      app,
      [mode(() => new Promise(() => {})), mode(async () => ({ value: 2 }))],
      {
        timeoutMs: 20,
      },
    )
    expect(hanging).toMatchObject({
      verdict: 'unknown',
      value: null,
      message: expect.stringContaining('within 20 ms'),
    })
    expect(quick).toMatchObject({ verdict: 'firing', value: 2, threshold: '> 1' })
  })

  test('that finds no schema says which command makes it', async () => {
    await using app = createApp(loadConfig({ env: {}, cwd: folder }))
    const missing = mode(async () => {
      await database.db.query('select from tabib.no_such_table')
      return { value: 0 }
    })
    await expect(readStatus(app, [missing])).rejects.toMatchObject({
      code: 'MIGRATION_REQUIRED',
      suggestions: ['tabib migrate up'],
    })
  })
})
