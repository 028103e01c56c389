import { createHash } from 'node:crypto'
import { readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { beforeAll, describe, expect, test } from 'vitest'
import { withAccountStatement } from '../../src/domain/statements/account-statement.ts'
import type { Run, Shortfall } from '../../src/domain/statements/runs.ts'
import { OUTPUT_SCHEMAS } from '../../src/output-schema.ts'
import { mountSmallDisk } from '../../src/sandbox/faults/disk.ts'
import { openSandboxFolder } from '../../src/sandbox/folder.ts'
import { plantHistory } from '../../src/sandbox/ledger-history.ts'
import { useWorld } from '../support/world.ts'
import { textOf } from './support.ts'

const world = useWorld()
const PERIOD = '2026-10'
// Before, in and after the period.
const PAST = { from: new Date('2026-08-20T00:00:00Z'), to: new Date('2026-11-10T00:00:00Z') }

type Result = Run & { shortfalls: Shortfall[] }

const store = () => world().env.TABIB_STATEMENT_STORE!.slice('file:'.length)
const run = async (...argv: string[]) => {
  const { exitCode, envelope, stderr } = await world().tabib(['statement', ...argv])
  const { result, error } = envelope as { result: Result; error: { code: string; message: string } }
  return { exitCode, result, error, stderr }
}
const runOf = (tenantId: string, ...argv: string[]) =>
  run('run', '--tenant', tenantId, '--period', PERIOD, ...argv)

const until = async (met: () => Promise<boolean> | boolean) => {
  while (!(await met())) await delay(50)
}

const settled = async (tenantId: string): Promise<number> => {
  const [row] = await world().db.query<{ n: number }>(
    `select count(*)::int as n from billing.statement where tenant_id = $1 and state <> 'pending'`,
    [tenantId],
  )
  return row!.n
}

const asOwner = (tenantId: string, sql: string, values: unknown[] = []) =>
  world().owner.transaction(async (tx) => {
    await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
    await tx.query(sql, values)
  })

/** What lies in a store for a tenant, by account. */
async function stored(tenantId: string, root = store()): Promise<Record<string, string>> {
  const folder = join(root, tenantId, PERIOD)
  const files = await readdir(folder)
  const digests = files.map(async (file) => [
    file.replace(/\.pdf$/, ''),
    createHash('sha256')
      .update(await readFile(join(folder, file)))
      .digest('hex'),
  ])
  return Object.fromEntries(await Promise.all(digests))
}

const recorded = async (tenantId: string): Promise<Record<string, string>> => {
  const rows = await world().db.query<{ account_id: string; sha256: string }>(
    `select account_id, sha256 from billing.statement where tenant_id = $1 and state in ('rendered', 'basic')`,
    [tenantId],
  )
  return Object.fromEntries(rows.map(({ account_id, sha256 }) => [account_id, sha256]))
}

const events = (tenantId: string) =>
  world().db.query<{ aggregate_id: string; data: Record<string, unknown> }>(
    `select aggregate_id, data from billing.outbox
     where tenant_id = $1 and aggregate_type = 'statement' order by aggregate_id`,
    [tenantId],
  )

describe('a run of a clinic', () => {
  let tenantId: string
  let accounts: string[]
  let first: Awaited<ReturnType<typeof run>>
  beforeAll(async () => {
    tenantId = await world().tenant()
    accounts = await plantHistory(world(), { tenantId, patients: 40, lines: 12, ...PAST })
    first = await runOf(tenantId, '--batch-size', '15')
  }, 120_000)

  test('states every account once: a PDF, a digest and an event', async () => {
    expect(first.exitCode, first.stderr).toBe(0)
    OUTPUT_SCHEMAS.statementRun.parse(first.result)
    expect(first.result).toMatchObject({ state: 'finished', accounts: 40, rendered: 40, basic: 0, failed: 0 })
    expect(first.result).toMatchObject({ batches: 3, pending: 0, deaths: 0, shortfalls: [] })
    const files = await stored(tenantId)
    expect(Object.keys(files).sort()).toEqual(accounts)
    expect(files).toEqual(await recorded(tenantId))
    const told = await events(tenantId)
    expect(told.map(({ aggregate_id }) => aggregate_id)).toEqual(accounts)
    expect(Object.keys(told[0]!.data).sort()).toEqual(
      ['accountId', 'manner', 'number', 'objectKey', 'pages', 'runId', 'sha256'].sort(),
    )
    expect(await readdir(join(store(), '.drafts'))).toEqual([])
  })

  test('says what the ledger says: opening and closing balance, each line, in the patient’s language', async () => {
    const ledger = await world().db.query<{
      id: string
      opening: bigint
      closing: bigint
      lines: number
      language: string
    }>(
      `select a.id, p.language,
         coalesce(sum(amount_minor) filter (where posted_at < '2026-10-01T00:00+04:30'), 0)::bigint as opening,
         coalesce(sum(amount_minor) filter (where posted_at < '2026-11-01T00:00+04:30'), 0)::bigint as closing,
         (count(*) filter (where posted_at >= '2026-10-01T00:00+04:30' and posted_at < '2026-11-01T00:00+04:30'))::int as lines
       from billing.entry e join billing.account a on a.id = e.account_id
         join virtual_care.patient p on a.code = 'receivable:' || p.id
       where e.tenant_id = $1 and p.language in ('en', 'fa-AF') group by 1, 2 order by p.language, a.id`,
      [tenantId],
    )
    const read = async (id: string) =>
      textOf(await readFile(join(store(), tenantId, PERIOD, `${id}.pdf`)), '-layout')
    const english = ledger.find(({ language }) => language === 'en')!
    const money = (minor: bigint) =>
      new Intl.NumberFormat('en', { minimumFractionDigits: 2 }).format(Number(minor) / 100)
    const text = await read(english.id)
    expect(text).toContain(money(english.opening))
    expect(text).toContain(money(english.closing))
    expect(text.match(/Health service|Payment \(/g)).toHaveLength(english.lines)
    const dari = ledger.find(({ language }) => language === 'fa-AF')!
    const digits = (shown: string) => shown.replace(/[0-9]/g, (digit) => '۰۱۲۳۴۵۶۷۸۹'[Number(digit)]!)
    expect(await read(dari.id)).toContain(digits(money(dari.closing)).replace(',', '٬').replace('.', '٫'))
  })

  test('typed again is the same run, and with --again writes nothing and tells nobody', async () => {
    const [account = ''] = accounts
    const before = await stat(join(store(), tenantId, PERIOD, `${account}.pdf`))
    const same = await runOf(tenantId)
    expect(same.result).toEqual(first.result)
    const again = await runOf(tenantId, '--again')
    expect(again.result).toMatchObject({ id: first.result.id, rendered: 40, pending: 0 })
    const after = await stat(join(store(), tenantId, PERIOD, `${account}.pdf`))
    expect([after.ino, after.mtimeMs]).toEqual([before.ino, before.mtimeMs])
    expect(await events(tenantId)).toHaveLength(40)
  }, 60_000)

  test('is seen by no other tenant, and changed by no service', async () => {
    const other = await world().tenant()
    const as = (id: string, sql: string) =>
      world().service.transaction(async (tx) => {
        await tx.query(`select set_config('app.tenant_id', $1, true)`, [id])
        return tx.query(sql)
      })
    expect(await as(other, 'select from billing.statement')).toEqual([])
    expect(await as(tenantId, 'select from billing.statement')).toHaveLength(40)
    await expect(as(tenantId, `update billing.statement set state = 'pending'`)).rejects.toThrow(
      'permission denied',
    )
    const foreign = { tenantId: other, runId: first.result.id, accountId: accounts[0]! }
    await expect(withAccountStatement(world(), foreign, async () => {})).rejects.toMatchObject({
      code: 'ACCOUNT_UNKNOWN',
    })
    expect((await stat(store())).mode & 0o077).toBe(0)
  })
})

describe('accounts whose figures may be wrong', () => {
  test('are listed with the reason and stop nobody; once mended they are stated', async () => {
    const tenantId = await world().tenant()
    const [frozen = '', drifted = '', ...others] = await plantHistory(world(), {
      tenantId,
      patients: 6,
      lines: 6,
      ...PAST,
    })
    await asOwner(
      tenantId,
      `update billing.balance set frozen_at = now(), frozen_reason = 'seen', frozen_incident = gen_random_uuid() where account_id = $1`,
      [frozen],
    )
    await asOwner(
      tenantId,
      'update billing.balance set balance_minor = balance_minor + 1 where account_id = $1',
      [drifted],
    )

    const { exitCode, result } = await runOf(tenantId)
    expect(exitCode).toBe(1)
    expect(result).toMatchObject({ state: 'finished', rendered: 4, failed: 2 })
    expect(result.shortfalls.map(({ accountId, reason }) => [accountId, reason])).toEqual([
      [frozen, 'ACCOUNT_FROZEN'],
      [drifted, 'LEDGER_DRIFT'],
    ])
    expect(Object.keys(await stored(tenantId)).sort()).toEqual(others)
    expect((await run('show', result.id)).exitCode).toBe(1)

    await asOwner(
      tenantId,
      'update billing.balance set frozen_at = null, frozen_reason = null, frozen_incident = null where account_id = $1',
      [frozen],
    )
    const retried = await run('resume', result.id, '--retry-failed')
    expect(retried.result).toMatchObject({ rendered: 5, failed: 1 })
  }, 60_000)
})

describe('accounts that no statement can be made of, not even a basic one', () => {
  test('are listed with the reason, and the run ends with all others stated', async () => {
    const tenantId = await world().tenant()
    const [slow = '', broken = '', ...others] = await plantHistory(world(), {
      tenantId,
      patients: 5,
      lines: 4,
      ...PAST,
    })
    // Reading the one account's entries takes forever, those of the other cannot be read.
    await asOwner(
      tenantId,
      `create policy unreadable on billing.entry as restrictive for select to tabib_app using (case when current_user <> 'tabib_app' then true else case account_id
         when '${slow}' then pg_sleep(600)::text is not null when '${broken}' then 1 / (amount_minor - amount_minor) = 1
         else true end end)`,
    )
    try {
      await world().configure({ statements: { accountTimeout: '3s' } })
      const { exitCode, result, stderr } = await runOf(tenantId, '--concurrency', '1')
      expect(exitCode, stderr).toBe(1)
      expect(result).toMatchObject({ state: 'finished', rendered: 3, failed: 2, pending: 0, deaths: 3 })
      expect(result.shortfalls.map(({ accountId, reason }) => [accountId, reason])).toEqual([
        [slow, 'TIMEOUT'],
        [broken, 'BUG'],
      ])
      expect(Object.keys(await stored(tenantId)).sort()).toEqual(others)
      expect(await readdir(join(store(), '.drafts'))).toEqual([])
    } finally {
      await world().configure({})
      // Of renderers that were killed: the server does not see that nobody waits.
      await world().db.query(
        `select pg_terminate_backend(pid) from pg_stat_activity where usename = current_user and wait_event = 'PgSleep'`,
      )
      await asOwner(tenantId, 'drop policy unreadable on billing.entry')
    }
  }, 90_000)
})

describe('a disk of the store that', () => {
  test('is full is told and waited for, and loses nothing; one that is read-only is told at once', async () => {
    const tenantId = await world().tenant()
    const accounts = await plantHistory(world(), { tenantId, patients: 30, lines: 12, ...PAST })
    await using sandbox = await openSandboxFolder()
    const folder = await sandbox.make('statements')
    const disk = await mountSmallDisk(folder, 1)
    const argv = ['statement', 'run', '--tenant', tenantId, '--period', PERIOD, '--concurrency', '1']
    const env = { TABIB_STATEMENT_STORE: `file:${folder}` }

    await disk.remount('ro')
    await using refused = world().spawn([...argv, '--json'], { env })
    expect(await refused.exited).toBe(3)
    const { error } = JSON.parse(refused.stdout())
    expect(error.message).toContain('it is read-only (EROFS)')

    await disk.remount('rw,size=256k')
    await using run = world().spawn([...argv, '--json'], { env })
    await until(() => run.stderr().includes('no space is left (ENOSPC): waiting'))
    await disk.fill()
    expect(await settled(tenantId)).toBeLessThan(30)
    expect(await stored(tenantId, folder)).toEqual(await recorded(tenantId))
    await disk.free()
    await disk.remount('size=4m')
    expect(await run.exited, run.stderr()).toBe(0)
    expect(JSON.parse(run.stdout()).result).toMatchObject({ rendered: 30, basic: 0, failed: 0 })
    expect(await stored(tenantId, folder)).toEqual(await recorded(tenantId))
    expect(await readdir(join(folder, '.drafts'))).toEqual([])
    expect((await events(tenantId)).map(({ aggregate_id }) => aggregate_id)).toEqual(accounts)
  }, 90_000)
})

describe('whatever is killed', () => {
  test('several hosts work on one run, with a Redis that hangs: no account twice, none missing', async () => {
    const tenantId = await world().tenant()
    const accounts = await plantHistory(world(), { tenantId, patients: 60, lines: 4, ...PAST })
    const argv = ['statement', 'run', '--tenant', tenantId, '--period', PERIOD, '--batch-size', '10']
    await using one = world().spawn([...argv, '--concurrency', '1', '--json'])
    await using other = world().spawn([...argv, '--concurrency', '1', '--json'])
    await until(async () => (await settled(tenantId)) > 5)
    await world().redis.pause()
    try {
      expect(await Promise.all([one.exited, other.exited]), one.stderr() + other.stderr()).toEqual([0, 0])
    } finally {
      await world().redis.resume()
    }
    for (const { stdout } of [one, other]) {
      expect(JSON.parse(stdout()).result).toMatchObject({ accounts: 60, rendered: 60, state: 'finished' })
    }
    expect(await stored(tenantId)).toEqual(await recorded(tenantId))
    expect((await events(tenantId)).map(({ aggregate_id }) => aggregate_id)).toEqual(accounts)
  }, 90_000)

  test('the run goes on where it was: no account twice, none missing', async () => {
    const tenantId = await world().tenant()
    const accounts = await plantHistory(world(), { tenantId, patients: 90, lines: 8, ...PAST })
    const argv = ['statement', 'run', '--tenant', tenantId, '--period', PERIOD, '--batch-size', '30']
    await using killed = world().spawn([...argv, '--concurrency', '1'])
    await until(async () => (await settled(tenantId)) > 5)
    killed.signal('SIGKILL')
    await killed.exited
    await world().redis.kill()
    expect(await settled(tenantId)).toBeLessThan(90)

    // Its lease would end by itself in a few seconds.
    await world().db.query(
      'update billing.statement_batch set expires_at = now() where expires_at is not null',
    )
    const [{ id = '' } = {}] = await world().db.query<{ id: string }>(
      'select id from billing.statement_run where tenant_id = $1',
      [tenantId],
    )
    await using resumed = world().spawn(['statement', 'resume', id, '--json'])
    const now = await settled(tenantId)
    await until(async () => (await settled(tenantId)) > now + 3)
    await world().postgres.kill()
    // Whoever begins now is told at once.
    const begun = await runOf(tenantId)
    expect([begun.exitCode, begun.error.code]).toEqual([3, 'POSTGRES_UNREACHABLE'])
    await world().postgres.restart()
    expect(await resumed.exited, resumed.stderr()).toBe(0)
    await world().redis.restart()

    expect(JSON.parse(resumed.stdout()).result).toMatchObject({
      accounts: 90,
      rendered: 90,
      state: 'finished',
    })
    expect(await stored(tenantId)).toEqual(await recorded(tenantId))
    expect(await readdir(join(store(), '.drafts'))).toEqual([])
    expect((await events(tenantId)).map(({ aggregate_id }) => aggregate_id)).toEqual(accounts)
  }, 90_000)
})

describe('bad input', () => {
  test.each([
    [['run', '--tenant', 'nobody', '--period', PERIOD], 2, 'NOT_FOUND'],
    [['run', '--tenant', '$tenant', '--period', '1405-07'], 2, 'USAGE'],
    [['run', '--tenant', '$tenant', '--period', '2999-01'], 5, 'PERIOD_OPEN'],
    [['resume', 'nonsense'], 2, 'NOT_FOUND'],
    [['resume'], 2, 'USAGE'],
  ])('%s exits %i', async (argv, exitCode, code) => {
    const tenantId = await world().tenant()
    const got = await run(...argv.map((word) => word.replace('$tenant', tenantId)))
    expect([got.exitCode, got.error.code]).toEqual([exitCode, code])
    expect(
      await world().db.query('select from billing.statement_run where tenant_id = $1', [tenantId]),
    ).toEqual([])
  })

  test('a store that takes nothing is told before anything is begun', async () => {
    const tenantId = await world().tenant()
    await plantHistory(world(), { tenantId, patients: 2, lines: 2, ...PAST })
    const nowhere = join(world().env.TABIB_CONFIG!, 'statements')
    await using failing = world().spawn(
      ['statement', 'run', '--tenant', tenantId, '--period', PERIOD, '--json'],
      { env: { TABIB_STATEMENT_STORE: `file:${nowhere}` } },
    )
    expect(await failing.exited).toBe(3)
    expect(JSON.parse(failing.stdout()).error).toMatchObject({ code: 'STATEMENT_STORE_UNREACHABLE' })
    expect(
      await world().db.query('select from billing.statement_run where tenant_id = $1', [tenantId]),
    ).toEqual([])
  })
})
