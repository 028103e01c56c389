import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { XMLParser, XMLValidator } from 'fast-xml-parser'
import { Parser } from 'tap-parser'
import { expect, onTestFinished, test } from 'vitest'
import type { Finding } from '../src/finding.ts'
import { type FindingsReport, fails, renderReport, reportResult } from '../src/findings-report.ts'
import { OUTPUT_SCHEMAS } from '../src/output-schema.ts'
import { applyWaivers, readWaivers } from '../src/waivers.ts'

const drift: Finding = {
  id: 'ledger/drift',
  check: 'ledger verify',
  severity: 'error',
  object: 'account 7',
  message: 'balance 10 < 12 & "more": 100 %, #1,\nsecond \\ line \u0007\ud800',
  evidence: { balance: 10n, expected: 12n },
  fix: 'tabib ledger reconcile 7 --dry-run',
  runbook: 'runbooks/billing/fm-07-ledger-drift.md',
  cacheKey: 'ledger:7',
  waived: false,
}
const slow: Finding = {
  ...drift,
  id: 'ledger/slow',
  severity: 'warning',
  object: 'account 8',
  message: 'slow',
}
const waived: Finding = {
  ...drift,
  object: 'account 9',
  message: 'known',
  waived: true,
  waiver: { owner: 'maryam', reason: 'moves on Friday', expires: '2026-12-31' },
}
const report: FindingsReport = {
  check: 'ledger verify',
  subject: 'staging',
  version: '0.1.0',
  rules: [
    { id: 'ledger/drift', category: 'balances', title: 'balances equal the sum of their entries' },
    { id: 'ledger/gap', category: 'balances', title: 'sequences have no gap' },
    { id: 'ledger/slow', category: 'speed', title: 'accounts are read in time' },
    { id: 'ledger/zero', category: 'sums', title: 'entries sum to zero' },
  ],
  findings: [waived, drift, slow],
  facts: { entries: 12 },
}
const clean: FindingsReport = { ...report, findings: [] }

test('only what is grave and not waived fails a run', () => {
  expect(report.findings.map(fails)).toEqual([false, true, false])
  expect(fails({ ...drift, severity: 'critical' })).toBe(true)
  expect(fails({ ...drift, severity: 'info' })).toBe(false)
})

test('a table says why and what to type where something failed, and one line where all passed', () => {
  expect(
    renderReport({ ...report, findings: [{ ...drift, message: 'off by 2' }, waived] }, { format: 'table' }),
  ).toBe(
    [
      'balances',
      '--------',
      '× balances equal the sum of their entries (ledger/drift)',
      '    × account 7: off by 2',
      '        balance 10, expected 12',
      '        Try: tabib ledger reconcile 7 --dry-run',
      '        Runbook: runbooks/billing/fm-07-ledger-drift.md',
      '    ‼ account 9: known (waived by maryam until 2026-12-31: moves on Friday)',
      '        balance 10, expected 12',
      '        Try: tabib ledger reconcile 7 --dry-run',
      '        Runbook: runbooks/billing/fm-07-ledger-drift.md',
      '√ 1 other check',
      '',
      '√ speed: 1 check',
      '√ sums: 1 check',
      '',
      '× ledger verify staging: 1 failed, 1 waived, 3 checks passed',
      '  entries 12',
    ].join('\n'),
  )
  expect(renderReport(clean, { format: 'table' }).split('\n')).toEqual([
    '√ balances: 2 checks',
    '√ speed: 1 check',
    '√ sums: 1 check',
    '',
    '√ ledger verify staging: 4 checks passed',
    '  entries 12',
  ])
})

test('a chat gets one line for each thing that nobody waived', () => {
  expect(renderReport(report, { format: 'table', short: true }).split('\n')).toEqual([
    '× ledger verify staging: 1 failed, 1 warning, 1 waived, 2 checks passed',
    expect.stringMatching(/^× ledger\/drift account 7: balance 10 < 12 & "more": 100 %, #1, second/),
    '‼ ledger/slow account 8: slow',
  ])
  expect(renderReport(clean, { format: 'table', short: true })).toBe(
    '√ ledger verify staging: 4 checks passed',
  )
})

test('the result of --json is the published shape, with what passed', () => {
  const result = JSON.parse(renderReport(report, { format: 'json' }))
  OUTPUT_SCHEMAS.findings.parse(result)
  expect(result).toMatchObject({
    check: 'ledger verify',
    subject: 'staging',
    version: '0.1.0',
    counts: { failed: 1, warnings: 1, infos: 0, waived: 1, passed: 2 },
    entries: 12,
    passed: ['ledger/gap', 'ledger/zero'],
  })
  expect(reportResult(clean)).toMatchObject({ findings: [] })
})

test('JUnit is XML whose counts are those of its tests', () => {
  const text = renderReport(report, { format: 'junit' })
  expect(XMLValidator.validate(text)).toBe(true)
  const options = { ignoreAttributes: false, attributeNamePrefix: '', htmlEntities: true }
  const parser = new XMLParser({ ...options, isArray: (name) => /^test(suite|case)$/.test(name) })
  const { testsuites } = parser.parse(text)
  expect(testsuites).toMatchObject({ tests: '5', failures: '1', errors: '0' })
  for (const suite of testsuites.testsuite) {
    const having = (tag: string) => suite.testcase.filter((one: object) => tag in one).length
    expect([suite.tests, suite.failures, suite.skipped].map(Number)).toEqual([
      suite.testcase.length,
      having('failure'),
      having('skipped'),
    ])
  }
  const cases = testsuites.testsuite.flatMap((suite: { testcase: object[] }) => suite.testcase)
  const failed = cases.find((one: object) => 'failure' in one)
  // What XML cannot carry is left out, the rest arrives as it was.
  expect(failed.failure.message).toBe('balance 10 < 12 & "more": 100 %, #1,\nsecond \\ line \ufffd')
  expect(
    new Set(cases.map(({ classname, name }: Record<string, string>) => `${classname} ${name}`)).size,
  ).toBe(5)
  expect(XMLValidator.validate(renderReport(clean, { format: 'junit' }))).toBe(true)
})

test('SARIF names rule, place and fingerprint, and suppresses what is waived', () => {
  // Its shape is held by the published types at compile time; what types cannot say is held here.
  const { version, runs } = JSON.parse(renderReport(report, { format: 'sarif' }))
  expect(version).toBe('2.1.0')
  const { rules } = runs[0].tool.driver
  expect(rules.map(({ id }: { id: string }) => id)).toEqual(report.rules.map(({ id }) => id))
  for (const { ruleId, ruleIndex } of runs[0].results) expect(rules[ruleIndex].id).toBe(ruleId)
  expect(runs[0].results).toMatchObject([
    {
      level: 'error',
      locations: [
        {
          physicalLocation: { artifactLocation: { uri: 'account%209' } },
          logicalLocations: [{ fullyQualifiedName: 'account 9' }],
        },
      ],
      suppressions: [{ kind: 'external', justification: 'moves on Friday' }],
    },
    { level: 'error', partialFingerprints: { 'tabib/v1': 'ledger:7' } },
    { level: 'warning' },
  ])
  const placed = { ...drift, location: { file: 'tenants/kabul.yaml', line: 4 } }
  const withPlace = JSON.parse(renderReport({ ...report, findings: [placed] }, { format: 'sarif' }))
  expect(withPlace.runs[0].results[0].locations[0].physicalLocation).toEqual({
    artifactLocation: { uri: 'tenants/kabul.yaml' },
    region: { startLine: 4 },
  })
  expect(JSON.parse(renderReport(clean, { format: 'sarif' })).runs[0].results).toEqual([])
})

test('GitHub annotations stay on one line each, and name a file where there is one', () => {
  const placed = { ...drift, location: { file: 'a,b:c.yaml', line: 4 } }
  const findings = [{ ...drift, message: 'off: 100 %,\nreally' }, { ...placed, message: 'x' }, slow, waived]
  expect(renderReport({ ...report, findings }, { format: 'github' }).split('\n')).toEqual([
    '::error title=ledger/drift::account 7: off: 100 %25,%0Areally%0Atabib ledger reconcile 7 --dry-run',
    expect.stringMatching(/^::error file=a%2Cb%3Ac\.yaml,line=4,title=ledger\/drift::account 7: x/),
    expect.stringMatching(/^::notice title=ledger\/drift::account 9: known \(waived by maryam/),
    expect.stringMatching(/^::warning title=ledger\/slow::/),
    'ledger verify staging: 2 failed, 1 warning, 1 waived, 2 checks passed',
  ])
})

test('TAP 14 fails for what fails, and excuses what is waived or only a warning', () => {
  const lines = renderReport(report, { format: 'tap' })
  expect(lines.split('\n').slice(0, 2)).toEqual(['TAP version 14', '1..5'])
  const seen = Parser.parse(lines).filter(([event]) => event === 'assert')
  expect(seen.map(([, result]) => result)).toMatchObject([
    { ok: true, skip: 'waived by maryam' },
    {
      ok: false,
      fullname: expect.stringContaining('100 %, #1, second \\ line'),
      diag: { severity: 'error', evidence: { balance: '10' } },
    },
    { ok: true },
    { ok: false, todo: 'warning' },
    { ok: true },
  ])
  expect(Parser.parse(lines).some(([event]) => event === 'extra' || event === 'bailout')).toBe(false)
  const count = (text: string) => {
    const parser = new Parser()
    parser.end(text)
    return parser.results
  }
  expect(count(lines)).toMatchObject({ ok: false, count: 5, fail: 2, todo: 1, skip: 1 })
  expect(count(renderReport(clean, { format: 'tap' }))).toMatchObject({ ok: true, count: 4 })
})

test('a waiver holds through its last day, for one finding alone', () => {
  const waiver = {
    check: 'ledger/drift',
    object: 'account 7',
    owner: 'maryam',
    reason: 'r',
    expires: '2026-11-30',
  }
  const found = { ...report, findings: [drift, { ...drift, object: 'account 70' }] }
  const on = (day: string) => applyWaivers(found, [waiver], { now: new Date(day) }).findings
  expect(on('2026-11-30T23:59:59Z').map(fails)).toEqual([false, true])
  const late = on('2026-12-01T00:00:00Z')
  expect(late.map(fails)).toEqual([true, true, true])
  expect(late[2]).toMatchObject({ id: 'waiver/expired', object: 'ledger/drift account 7' })
})

test('a waiver that meets nothing is told, unless its check did not run', () => {
  const waiver = { check: 'ledger/gap', object: 'x', owner: 'o', reason: 'r', expires: '2099-01-01' }
  const ids = (check: string) => applyWaivers(clean, [{ ...waiver, check }]).findings.map(({ id }) => id)
  expect(ids('ledger/gap')).toEqual(['waiver/unused'])
  expect(ids('tenant/currency')).toEqual([])
})

test('a waivers file needs an owner and a day, and says all that is wrong with it', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'waivers-'))
  onTestFinished(() => rm(folder, { recursive: true }))
  const file = join(folder, 'waivers.yaml')
  await writeFile(file, 'waivers:\n  - { check: a, object: b, owner: c, reason: d, expires: 2026-12-31 }\n')
  expect(await readWaivers(file)).toEqual([
    { check: 'a', object: 'b', owner: 'c', reason: 'd', expires: '2026-12-31' },
  ])
  await writeFile(file, 'waivers:\n  - { check: a, object: b, reason: d, expires: soon }\n')
  await expect(readWaivers(file)).rejects.toMatchObject({
    code: 'CONFIG_INVALID',
    message: expect.stringMatching(/waivers\.0\.owner[\s\S]*waivers\.0\.expires/),
  })
  await expect(readWaivers(join(folder, 'none.yaml'))).rejects.toMatchObject({ code: 'CONFIG_INVALID' })
})

test('what did not run is neither passed nor failed in any format', () => {
  const [first, ...others] = clean.rules
  const partial = { ...clean, rules: [{ ...first!, notRun: 'not run offline' }, ...others] }
  const printed = (format: 'table' | 'junit' | 'tap' | 'sarif') => renderReport(partial, { format })
  expect(reportResult(partial)).toMatchObject({
    counts: { passed: 3, notRun: 1, failed: 0 },
    passed: ['ledger/gap', 'ledger/slow', 'ledger/zero'],
    notRun: [{ id: 'ledger/drift', reason: 'not run offline' }],
  })
  expect(printed('table')).toContain(
    '- balances equal the sum of their entries (ledger/drift): not run offline\n√ 1 other check\n',
  )
  expect(printed('table')).toContain('√ ledger verify staging: 1 not run, 3 checks passed')
  expect(printed('junit')).toContain('><skipped message="not run offline"/></testcase>')
  expect(printed('junit')).toContain('tests="2" failures="0" errors="0" skipped="1"')
  expect(printed('tap')).toContain(
    'ok 1 - ledger/drift balances equal the sum of their entries # SKIP not run offline',
  )
  expect(JSON.parse(printed('sarif')).runs[0].tool.driver.rules[0].properties.notRun).toBe('not run offline')
})
