import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readTenants } from '../../src/domain/tenants/read.ts'
import { packageRoot } from '../../src/package-root.ts'
import { useDatabase } from '../support/database.ts'
import { runLine } from '../support/line.ts'

const database = useDatabase()
const docs = await readFile(join(packageRoot(), 'docs/onboarding.md'), 'utf8')
const DOCUMENT = /```yaml\n(# yaml-language-server[\s\S]*?)```/.exec(docs)![1]!

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tabib-apply-'))
})
afterAll(() => rm(folder, { recursive: true }))

// biome-ignore lint/suspicious/noExplicitAny: whatever the envelope holds
const tabib = async (...argv: string[]): Promise<any> => {
  const env = { TABIB_DATABASE_URL: database.url('tabib') }
  const { exitCode, stdout } = await runLine([...argv, '--json'], env)
  return { exitCode, ...JSON.parse(stdout) }
}
/** The document of docs/onboarding.md under another name, with edits. */
const written = async (slug: string, ...edits: [from: string, to: string][]) => {
  const file = join(folder, `${slug}.yaml`)
  const text = [['slug: herat-markaz', `slug: ${slug}`], ...edits].reduce((before, [from = '', to = '']) => {
    expect(before).toContain(from)
    return before.replaceAll(from, to)
  }, DOCUMENT)
  await writeFile(file, text)
  return file
}
const apply = async (slug: string, ...edits: [from: string, to: string][]) =>
  tabib('tenant', 'apply', '--file', await written(slug, ...edits), '--yes')
const makeLive = (slug: string) =>
  database.db.query(`update tabib.tenant set status = 'live' where slug = $1`, [slug])

// Nothing is registered yet: this one runs first.
test('a check of every tenant where there is none does not pass', async () => {
  for (const argv of [[], ['--offline']]) {
    expect(await tabib('tenant', 'check', '--all', ...argv)).toMatchObject({
      exitCode: 1,
      status: 'findings',
      result: {
        subject: '0 tenants',
        counts: { failed: 1, passed: 0 },
        findings: [
          { id: 'tenant/registered', severity: 'error', fix: 'tabib tenant apply --file tenant.yaml' },
        ],
      },
    })
  }
})

describe('tenant apply', () => {
  test('registers a tenant that is then what its document says, once, by the plan that was shown, and on record', async () => {
    const file = await written('once')
    const command = ['tenant', 'apply', '--file', file]
    const planned = await tabib(...command, '--dry-run')
    expect(planned.result.plan).toMatchObject({ tenant: 'once', id: null })
    expect(planned.result.plan.changes).toContainEqual({ path: 'currency', from: null, to: '"AFN"' })
    await expect(readTenants(database.db, 'once')).rejects.toMatchObject({ code: 'NOT_FOUND' })
    expect((await tabib(...command)).error).toMatchObject({ code: 'CONFIRMATION_REQUIRED', exitCode: 5 })
    const done = await tabib(...command, '--apply', planned.result.planHash, '--yes')
    expect(done).toMatchObject({ exitCode: 0, result: { status: 'onboarding', changed: expect.any(Number) } })
    expect(await tabib(...command, '--yes')).toMatchObject({
      exitCode: 0,
      result: { changes: [], changed: 0 },
    })
    expect((await tabib(...command, '--apply', planned.result.planHash)).exitCode).toBe(6)
    expect((await tabib('tenant', 'check', 'once', '--offline')).result.findings).toEqual([])
    expect((await tabib('audit', 'list')).result).toContainEqual(
      expect.objectContaining({ command: 'tenant apply', outcome: 'ok', targets: ['tenant:once'] }),
    )
  })

  test('changes what the document changes, in every part', async () => {
    await apply('changing')
    const edits: [string, string][] = [
      ['name: درمانگاه مرکزی هرات', 'name: درمانگاه'],
      ['code: LEGACY-VISIT, sellable: false', 'code: XRAY, tax: standard'],
      ['amountMinor: 35000 }', 'amountMinor: 36000 }\n      - { item: XRAY, amountMinor: 90000 }'],
      ['allowed: [af-kabul]', 'allowed: [af-kabul, af-balkh]'],
      ['recordings: 90', 'recordings: 30'],
    ]
    const { result } = await apply('changing', ...edits)
    expect(result.changes.map(({ path }: { path: string }) => path).sort()).toEqual([
      'items.LEGACY-VISIT.code',
      'items.LEGACY-VISIT.sellable',
      'items.XRAY.code',
      'items.XRAY.sellable',
      'items.XRAY.tax',
      'name',
      'priceLists.1405.prices.CONSULT-REMOTE.amountMinor',
      'priceLists.1405.prices.XRAY.amountMinor',
      'priceLists.1405.prices.XRAY.item',
      'privacy.retentionDays.recordings',
      'residency.allowed',
    ])
    const [stored] = await readTenants(database.db, 'changing')
    expect(stored?.tenant).toMatchObject({
      name: 'درمانگاه',
      residency: { region: 'af-herat', allowed: ['af-balkh', 'af-kabul'] },
      items: [{ code: 'CONSULT-GP' }, { code: 'CONSULT-REMOTE' }, { code: 'XRAY' }],
      privacy: { retentionDays: { recordings: 30 } },
    })
    expect((await apply('changing', ...edits)).result.changed).toBe(0)
    // Back again: what was added is taken back.
    await apply('changing')
    expect((await apply('changing')).result.changed).toBe(0)
  })

  test('is done by one of two that come at once, and found done by the other', async () => {
    const argv = ['tenant', 'apply', '--file', await written('raced'), '--yes', '--json']
    const apart = () =>
      execa(process.execPath, [join(packageRoot(), 'bin/run.js'), ...argv], {
        env: { TABIB_DATABASE_URL: database.url('tabib') },
        reject: false,
      })
    const runs = await Promise.all([apart(), apart(), apart()])
    expect(runs.map(({ exitCode }) => exitCode).filter((code) => code !== 0 && code !== 6)).toEqual([])
    expect(runs.some(({ stdout }) => JSON.parse(stdout).result?.changed > 0)).toBe(true)
    expect((await apply('raced')).result.changed).toBe(0)
  })

  test('refuses what no document may change, all at once', async () => {
    await apply('settled')
    await makeLive('settled')
    const { exitCode, error } = await apply(
      'settled',
      ['currency: AFN', 'currency: USD'],
      ['allowed: [af-kabul]', 'allowed: [af-kabul, eu-west]'],
      ['name: "1405"', 'name: "1406"'],
      ['escalation: platform', 'escalation: clinics-herat'],
    )
    expect(exitCode).toBe(5)
    expect(error.code).toBe('TENANT_REFUSED')
    expect(error.context.against).toEqual([
      'currency: what is priced stays in AFN',
      ...['cash', 'receivable', 'refunds', 'revenue', 'tax'].map(
        (code) => `accounts.${code}.currency: an account stays as it was opened`,
      ),
      'residency.allowed: where the data of a live tenant may be is changed by tabib residency allow alone',
      'priceLists.1405: it has begun, and what was charged by it must be seen',
      expect.stringMatching(/^tenant\/on-call-route would fail: /),
    ])
    expect((await apply('settled')).result.changed).toBe(0)
  })

  test('says at which line a document cannot be written', async () => {
    const { exitCode, error } = await apply(
      'unwritable',
      ['  region: af-herat\n  allowed', '  allowed'],
      ['code: CONSULT-REMOTE, tax', 'code: CONSULT-GP, tax'],
      [
        'from: 2026-03-21T00:00:00+04:30',
        'from: 2026-03-21T00:00:00+04:30\n    to: 2026-03-21T00:00:00+04:30',
      ],
      ['code: cash, currency', 'code: "receivable:somebody", currency'],
    )
    expect(exitCode).toBe(2)
    const told = error.context.problems.map(
      ({ line, path, message }: Record<string, string>) => `${line} ${path}: ${message}`,
    )
    expect(told).toEqual([
      '11 items.1.code: CONSULT-GP stands twice',
      '17 priceLists.0.to: must lie after its "from"',
      '20 priceLists.0.prices.1.item: CONSULT-REMOTE is none of the items',
      '27 accounts.1.code: receivable:somebody is opened when it is first posted to',
      '50 residency.region: must be set: nothing is written without a region',
    ])
  })
})

describe('tenant go-live', () => {
  test('refuses while checks fail, names each, and is let through what somebody answers for', async () => {
    await apply('clinic')
    const refused = await tabib('tenant', 'go-live', 'clinic', '--yes')
    expect(refused).toMatchObject({ exitCode: 5, error: { code: 'TENANT_REFUSED' } })
    const against: { id: string; object: string }[] = refused.error.context.findings
    // Neither the clinic's webhook nor its identity provider runs here.
    expect(against.map(({ id }) => id)).toEqual(['tenant/webhook-signed-test', 'tenant/jwks-reachable'])
    const waivers = join(folder, 'waivers.json')
    const waiver = { owner: 'shukria', reason: 'no such server here', expires: '2999-01-01' }
    await writeFile(
      waivers,
      JSON.stringify({ waivers: against.map(({ id, object }) => ({ check: id, object, ...waiver })) }),
    )
    const command = ['tenant', 'go-live', 'clinic', '--waivers', waivers]
    expect((await tabib(...command)).error.code).toBe('CONFIRMATION_REQUIRED')
    const { result: planned } = await tabib(...command, '--dry-run')
    await apply('clinic', ['recordings: 90', 'recordings: 60'])
    expect((await tabib(...command, '--apply', planned.planHash, '--yes')).exitCode).toBe(6)
    expect(await tabib(...command, '--yes')).toMatchObject({ exitCode: 0, result: { changed: true } })
    expect(await tabib(...command, '--yes')).toMatchObject({ exitCode: 0, result: { changed: false } })
    expect((await tabib('tenant', 'list', '--status', 'live')).result).toContainEqual(
      expect.objectContaining({ slug: 'clinic' }),
    )
    expect((await tabib('audit', 'list')).result).toContainEqual(
      expect.objectContaining({ command: 'tenant go-live', outcome: 'ok', targets: ['tenant:clinic'] }),
    )
  })

  test('is no way around a missing currency, and neither is the database', async () => {
    await apply('unpaid', ['currency: AFN\nlocales', 'locales'])
    const waivers = join(folder, 'all.json')
    const waiver = { object: '*', owner: 'x', reason: 'x', expires: '2999-01-01' }
    const ids = ['currency-set', 'webhook-signed-test', 'jwks-reachable'].map((id) => `tenant/${id}`)
    await writeFile(
      waivers,
      JSON.stringify({ waivers: ids.map((check) => ({ check, ...waiver, object: 'unpaid' })) }),
    )
    const { error } = await tabib('tenant', 'go-live', 'unpaid', '--waivers', waivers, '--yes')
    expect(error.context.findings.map(({ id }: { id: string }) => id)).toEqual(['tenant/currency-set'])
    await expect(makeLive('unpaid')).rejects.toMatchObject({ constraint: 'live_has_currency' })
  })
})

test('a service can neither make a tenant live nor change what its profile says', async () => {
  await apply('guarded')
  for (const statement of [
    `update tabib.tenant set status = 'live'`,
    `update tabib.tenant_profile set document = '{}'`,
    `insert into tabib.tenant_profile (tenant_id) select id from tabib.tenant`,
    'delete from tabib.tenant_profile',
  ]) {
    await expect(database.service.query(statement)).rejects.toMatchObject({ code: 'NOT_AUTHORISED' })
  }
})
