import { createHash } from 'node:crypto'
import { readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { beforeAll, describe, expect, test } from 'vitest'
import type { Run, Shortfall } from '../../src/domain/statements/runs.ts'
import { OUTPUT_SCHEMAS } from '../../src/output-schema.ts'
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

/** What lies in the store for a tenant, by account. */
async function stored(tenantId: string): Promise<Record<string, string>> {
  const folder = join(store(), tenantId, PERIOD)
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
    const asOwner = (sql: string, values: unknown[]) =>
      world().owner.transaction(async (tx) => {
        await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
        await tx.query(sql, values)
      })
    await asOwner(
      `update billing.balance set frozen_at = now(), frozen_reason = 'seen', frozen_incident = gen_random_uuid() where account_id = $1`,
      [frozen],
    )
    await asOwner('update billing.balance set balance_minor = balance_minor + 1 where account_id = $1', [
      drifted,
    ])

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
      'update billing.balance set frozen_at = null, frozen_reason = null, frozen_incident = null where account_id = $1',
      [frozen],
    )
    const retried = await run('resume', result.id, '--retry-failed')
    expect(retried.result).toMatchObject({ rendered: 5, failed: 1 })
  }, 60_000)
})

describe('whatever is killed', () => {
  test('the run goes on where it was: no account twice, none missing', async () => {
    const tenantId = await world().tenant()
    const accounts = await plantHistory(world(), { tenantId, patients: 90, lines: 8, ...PAST })
    const settled = async () => {
      const [row] = await world().db.query<{ n: number }>(
        `select count(*)::int as n from billing.statement where tenant_id = $1 and state <> 'pending'`,
        [tenantId],
      )
      return row!.n
    }
    const until = async (met: () => Promise<boolean>) => {
      while (!(await met())) await delay(50)
    }
    const argv = ['statement', 'run', '--tenant', tenantId, '--period', PERIOD, '--batch-size', '30']
    await using killed = world().spawn([...argv, '--concurrency', '1'])
    await until(async () => (await settled()) > 5)
    killed.signal('SIGKILL')
    await killed.exited
    await world().redis.kill()
    expect(await settled()).toBeLessThan(90)

    // Its lease would end by itself in a few seconds.
    await world().db.query(
      'update billing.statement_batch set expires_at = now() where expires_at is not null',
    )
    const [{ id = '' } = {}] = await world().db.query<{ id: string }>(
      'select id from billing.statement_run where tenant_id = $1',
      [tenantId],
    )
    await using resumed = world().spawn(['statement', 'resume', id, '--json'])
    const now = await settled()
    await until(async () => (await settled()) > now + 3)
    await world().postgres.kill()
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
    [['run', '--tenant', '$tenant', '--period', '2026-13'], 2, 'USAGE'],
    [['run', '--tenant', '$tenant', '--period', '1405-07'], 2, 'USAGE'],
    [['run', '--tenant', '$tenant', '--period', '2999-01'], 5, 'PERIOD_OPEN'],
    [['run', '--tenant', '$tenant', '--period', PERIOD, '--batch-size', '0'], 2, 'USAGE'],
    [['resume', 'nonsense'], 2, 'NOT_FOUND'],
    [['resume'], 2, 'USAGE'],
    [['show', '019a8f2e-7c00-7000-8000-000000000001'], 2, 'NOT_FOUND'],
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
