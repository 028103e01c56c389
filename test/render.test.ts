import fc from 'fast-check'
import { expect, test } from 'vitest'
import { canonicalJson, planHash } from '../src/domain/audit/canonical-json.ts'
import type { Finding } from '../src/finding.ts'
import { details, redactUrls, renderFindings, table, toJson } from '../src/render.ts'

const finding: Finding = {
  id: 'FM-07',
  check: 'ledger verify',
  severity: 'error',
  object: 'account 7',
  message: 'balance 10 < 12 & "more": 100 %,\nsecond line',
  evidence: { balance: 10n, expected: 12n },
  fix: 'tabib ledger reconcile 7 --dry-run',
  runbook: 'runbooks/billing/fm-07-ledger-drift.md',
  cacheKey: 'ledger:7',
  waived: false,
}
const waived: Finding = { ...finding, object: 'account 8', severity: 'warning', waived: true }
const print = (
  format: Parameters<typeof renderFindings>[1]['format'],
  findings: Finding[] = [finding, waived],
) => renderFindings(findings, { format, check: 'ledger verify' })

test('a table aligns numbers right, words left, and shows what is absent as -', () => {
  const rows = [
    { name: 'billing', pending: 12_000, oldest: null },
    { name: 'مریم', pending: 7, oldest: new Date(0) },
  ]
  expect(table(rows, ['name', 'pending', 'oldest'])).toBe(
    ['NAME     PENDING  OLDEST', 'billing    12000  -', 'مریم           7  1970-01-01T00:00:00.000Z'].join(
      '\n',
    ),
  )
  expect(details({ id: 1, title: 'x', gone: null })).toBe('id     1\ntitle  x')
})

test('findings for people say what, the evidence, the command and the runbook', () => {
  expect(print('table', [finding])).toBe(
    [
      `× account 7: ${finding.message}`,
      '    balance 10, expected 12',
      '    Try: tabib ledger reconcile 7 --dry-run',
      '    Runbook: runbooks/billing/fm-07-ledger-drift.md',
    ].join('\n'),
  )
})

test('JUnit counts failures without what is waived, and escapes', () => {
  const xml = print('junit')
  expect(xml).toContain('tests="2" failures="1"')
  expect(xml).toContain('balance 10 &#60; 12 &#38; &#34;more&#34;')
  expect(xml).toContain('<skipped message="waived"/>')
  expect(print('junit', [])).toContain('tests="1" failures="0"')
  expect(print('junit', [{ ...finding, message: 'bell \u0007' }])).not.toContain('\u0007')
})

test('SARIF names rule, place and fingerprint, and suppresses what is waived', () => {
  const { runs } = JSON.parse(print('sarif'))
  expect(runs[0].tool.driver.rules).toEqual([{ id: 'FM-07' }])
  expect(runs[0].results).toMatchObject([
    {
      ruleId: 'FM-07',
      level: 'error',
      locations: [{ logicalLocations: [{ fullyQualifiedName: 'account 7' }] }],
      partialFingerprints: { tabib: 'ledger:7' },
    },
    { level: 'warning', suppressions: [{ kind: 'external' }] },
  ])
})

test('GitHub annotations stay on one line', () => {
  expect(print('github').split('\n')).toEqual([
    '::error title=FM-07::account 7: balance 10 < 12 & "more": 100 %25,%0Asecond line',
    expect.stringMatching(/^::notice /),
  ])
})

test('TAP numbers its lines and excuses what is waived', () => {
  expect(print('tap').split('\n')).toEqual([
    'TAP version 13',
    '1..2',
    expect.stringMatching(/^not ok 1 - FM-07 account 7/),
    expect.stringMatching(/^ok 2 - .* # SKIP waived$/),
  ])
  expect(print('tap', [])).toBe('TAP version 13\n1..1\nok 1 - ledger verify')
})

test('JSON keeps 64-bit integers whole', () => {
  expect(toJson({ seq: 9_007_199_254_740_993n }, 0)).toBe('{"seq":"9007199254740993"}')
})

test('users and passwords leave every URL', () => {
  expect(redactUrls('connect postgres://u:p%40x@h:5432/d or nats://t@n:4222')).toBe(
    'connect postgres://h:5432/d or nats://n:4222',
  )
})

test('equal values have one canonical JSON, whatever the order of their keys', () => {
  fc.assert(
    fc.property(fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 3 })), (value) => {
      const turned = Object.fromEntries(Object.entries(value).reverse())
      expect(canonicalJson(turned)).toBe(canonicalJson(value))
      expect(planHash(turned)).toBe(planHash(value))
      // Stored and read again, it is the same.
      expect(canonicalJson(JSON.parse(canonicalJson(value)))).toBe(canonicalJson(value))
    }),
  )
})
