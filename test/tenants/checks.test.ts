import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Document, isMap, isScalar, isSeq, type Node, parseDocument, parse as parseYaml } from 'yaml'
import * as z from 'zod'
import { tenantChecks } from '../../src/domain/tenants/checks/index.ts'
import { examineTenants } from '../../src/domain/tenants/examine.ts'
import { parseTenant } from '../../src/domain/tenants/parse.ts'
import type { Finding } from '../../src/finding.ts'
import { jsonSchemaOf } from '../../src/output-schema.ts'
import { packageRoot } from '../../src/package-root.ts'

// The document that docs/onboarding.md shows passes; every failing one is an edit of it.
const PASSING = /```yaml\n(# yaml-language-server[\s\S]*?)```/.exec(
  readFileSync(join(packageRoot(), 'docs/onboarding.md'), 'utf8'),
)![1]!
const NOW = new Date('2026-11-24T12:00:00Z')

interface Failing {
  /** What is replaced in the document that passes; all of it must be there. */
  edit: [from: string, to: string][]
  /** What the line says that a finding points at. */
  line: string
}

const LIST = '  - name: "1405"\n    currency: AFN\n    from: 2026-03-21T00:00:00+04:30\n'
const list = (name: string, from: string, to?: string) =>
  `  - name: "${name}"\n    currency: AFN\n    from: ${from}\n${to ? `    to: ${to}\n` : ''}`
const PRICES =
  '    prices:\n      - { item: CONSULT-GP, amountMinor: 50000 }\n      - { item: CONSULT-REMOTE, amountMinor: 35000 }\n'

/** For each check the document that fails it: one edit of the document that passes all. */
const FAILING: Record<string, Failing> = {
  'tenant/currency-set': {
    edit: [['currency: AFN\nlocales', 'currency: ""\nlocales']],
    line: 'currency: ""',
  },
  'tenant/currency-allowed': { edit: [['AFN', 'AFA']], line: 'currency: AFA' },
  'tenant/one-currency': {
    edit: [['code: cash, currency: AFN', 'code: cash, currency: USD']],
    line: '- { code: cash, currency: USD, openingMinor: 0 }',
  },
  'tenant/price-list': {
    edit: [
      ['status: onboarding', 'status: live'],
      ['from: 2026-03-21', 'from: 2026-12-21'],
    ],
    line: 'priceLists:',
  },
  'tenant/price-list-lapsing': {
    edit: [[LIST, list('1405', '2026-03-21T00:00:00+04:30', '2026-12-01T00:00:00+04:30')]],
    line: 'to: 2026-12-01T00:00:00+04:30',
  },
  'tenant/price-list-gaps': {
    edit: [
      [
        LIST + PRICES,
        list('1405', '2026-03-21T00:00:00+04:30', '2027-03-21T00:00:00+04:30') +
          PRICES +
          list('1406', '2027-03-22T00:00:00+04:30') +
          PRICES,
      ],
    ],
    line: 'from: 2027-03-22T00:00:00+04:30',
  },
  'tenant/price-list-overlaps': {
    edit: [
      [
        LIST + PRICES,
        list('1405', '2026-03-21T00:00:00+04:30', '2027-03-21T00:00:00+04:30') +
          PRICES +
          list('1406', '2027-03-20T00:00:00+04:30') +
          PRICES,
      ],
    ],
    line: 'from: 2027-03-20T00:00:00+04:30',
  },
  'tenant/items-priced': {
    edit: [['      - { item: CONSULT-REMOTE, amountMinor: 35000 }\n', '']],
    line: 'prices:',
  },
  'tenant/prices-known': {
    edit: [['amountMinor: 35000 }', 'amountMinor: 35000 }\n      - { item: XRAY, amountMinor: 9 }']],
    line: '- { item: XRAY, amountMinor: 9 }',
  },
  'tenant/tax-profile': { edit: [['  registration: "1000123456"\n', '']], line: 'tax:' },
  'tenant/tax-rates': {
    edit: [['code: CONSULT-GP, tax: standard', 'code: CONSULT-GP, tax: luxury']],
    line: '- { code: CONSULT-GP, tax: luxury }',
  },
  'tenant/accounts': {
    edit: [['  - { code: refunds, currency: AFN, openingMinor: 0 }\n', '']],
    line: 'accounts:',
  },
  'tenant/accounts-open-at-zero': {
    edit: [['code: cash, currency: AFN, openingMinor: 0', 'code: cash, currency: AFN, openingMinor: -5']],
    line: '- { code: cash, currency: AFN, openingMinor: -5 }',
  },
  'tenant/payment-account': {
    edit: [['  verifiedAt: 2026-11-02T09:00:00+04:30\n', '']],
    line: 'payment:',
  },
  'tenant/webhook-secret': {
    edit: [['url: https://pay', 'url: http://pay']],
    line: 'url: http://pay.clinics.example/webhooks/herat-markaz',
  },
  'tenant/webhook-tested': {
    edit: [['secretSetAt: 2026-11-01', 'secretSetAt: 2026-11-20']],
    line: 'testedAt: 2026-11-03T09:00:00+04:30',
  },
  'tenant/refund-approvers': {
    edit: [['[u-shukria, u-navid]', '[u-shukria, u-shukria]']],
    line: 'approvers: [u-shukria, u-shukria]',
  },
  'tenant/residency-region': {
    edit: [['  region: af-herat\n  allowed: [af-kabul]\n', '  allowed: [af-kabul, af-herat]\n']],
    line: 'residency:',
  },
  'tenant/backups-in-region': {
    edit: [['label: herat-nightly, region: af-kabul', 'label: herat-nightly, region: eu-west']],
    line: '- { label: herat-nightly, region: eu-west }',
  },
  'tenant/kms-key': {
    edit: [['ref: herat-markaz-2026, region: af-herat', 'ref: herat-markaz-2026, region: eu-west']],
    line: 'kms: { ref: herat-markaz-2026, region: eu-west }',
  },
  'tenant/subject-keys': {
    edit: [['wrappedBy: herat-markaz-2026', 'wrappedBy: another']],
    line: 'subjects: { wrappedBy: another }',
  },
  'tenant/erasure-contact': {
    edit: [['  erasureContact: privacy@clinics.example\n', '']],
    line: 'privacy:',
  },
  'tenant/retention-policy': {
    edit: [[', recordings: 90', '']],
    line: 'retentionDays: { clinical: 3650, billing: 3650, messages: 365, audit: 3650 }',
  },
  'tenant/identity-provider': {
    edit: [['jwksUri: https:', 'jwksUri: http:']],
    line: 'jwksUri: http://id.clinics.example/herat/jwks',
  },
  'tenant/admin-mfa': {
    edit: [['mfa: webauthn', 'mfa: none']],
    line: '- { user: u-shukria, mfa: none }',
  },
  'tenant/locale': {
    edit: [
      ['[fa-AF, ps-AF]', '[fa-AF, ps_AF]'],
      ['locale: ps-AF', 'locale: ps_AF'],
    ],
    line: 'locales: [fa-AF, ps_AF]',
  },
  'tenant/time-zone': { edit: [['Asia/Kabul', '"+04:30"']], line: 'timeZone: "+04:30"' },
  'tenant/senders': {
    edit: [['address: HERATCLINIC, verifiedAt: 2026-11-02T09:00:00+04:30', 'address: HERATCLINIC']],
    line: '- { channel: sms, address: HERATCLINIC }',
  },
  'tenant/templates': {
    edit: [['    - { name: visit-summary, channel: email, locale: ps-AF }\n', '']],
    line: 'templates:',
  },
  'tenant/placeholders': {
    edit: [['registration: "1000123456"', 'registration: <number>']],
    line: 'registration: <number>',
  },
  'tenant/quotas': {
    edit: [['patients: 20000, ', '']],
    line: 'quotas: { sessionsPerDay: 400, messagesPerDay: 2000, storageGb: 200 }',
  },
  'tenant/on-call-route': {
    edit: [[', escalation: platform', '']],
    line: 'onCall: { route: clinics-herat }',
  },
}

async function examine(text: string) {
  const parsed = parseTenant(text)
  if (parsed.kind === 'invalid') throw new Error(JSON.stringify(parsed.problems))
  const { tenant, document, lineOf } = parsed
  const locate = (path: (string | number)[]) => ({ file: 'tenant.yaml', line: lineOf(path) })
  return examineTenants([{ tenant, document, locate }], { now: NOW })
}

/** What a person fills in where a fix leaves something open; the same words for the same thing. */
const FILLED: [open: RegExp, value: string][] = [
  [/<user id>/g, 'u-one'],
  [/<another user id>/g, 'u-two'],
  [/<host>/g, 'pay.clinics.example'],
  [/<name>/g, 'webhook'],
  [/<price in minor units>/g, '5000'],
  [/<(key|keys\.kms\.ref)>/g, 'key-of-2026'],
  [/<receiver>/g, 'clinics'],
  [/<another receiver>/g, 'platform'],
  [/<e-mail address>/g, 'privacy@clinics.example'],
  [/<when it (ends|begins)[^>]*>/g, '2027-03-21T00:00:00Z'],
  [/"?<when [^>]*>"?/g, '2026-11-23T00:00:00Z'],
  [/<(number|account|label|address|registration)>/g, 'given'],
]
const filled = (fix: string) => FILLED.reduce((text, [open, value]) => text.replace(open, value), fix)

/** Pastes a fix as text, where docs/onboarding.md says that it goes. */
function paste(text: string, path: string[], fix: string): string {
  const document = parseDocument(text)
  const at = (steps: (string | number)[]) => document.getIn(steps, true)
  const steps = path.map((step) => (/^\d+$/.test(step) ? Number(step) : step))
  const lineStart = (offset: number) => text.lastIndexOf('\n', offset - 1) + 1
  const columnOf = (offset: number) => offset - lineStart(offset)
  const insertBefore = (offset: number, indent: string) =>
    `${text.slice(0, lineStart(offset))}${indent}${fix}\n${text.slice(lineStart(offset))}`
  // What is written in lines ends with the break of its last.
  const replace = ([from, to]: readonly number[], by: string) =>
    text.slice(0, from) + by + (text[to! - 1] === '\n' ? '\n' : '') + text.slice(to)
  if (fix.startsWith('{')) return fix
  if (fix.startsWith('#') || fix.startsWith('- ')) {
    const list = at(steps)
    if (isSeq(list) && !list.flow) {
      const dash = text.lastIndexOf('-', (list.items[0] as Node).range![0])
      return insertBefore(dash, ' '.repeat(columnOf(dash)))
    }
    const element = at(steps.slice(0, steps.findLastIndex((step) => typeof step === 'number') + 1)) as Node
    const [from, to] = element.range!
    return fix.startsWith('#')
      ? replace([text.lastIndexOf('-', from), to], fix)
      : replace([from, to], fix.slice(2))
  }
  const key = fix.slice(0, fix.indexOf(':'))
  const parent = steps.slice(
    0,
    steps.findIndex((step) => String(step) === key),
  )
  const within = parent.length === 0 ? document.contents : at(parent)
  if (!isMap(within)) throw new Error(`nothing at ${parent.join('.')} for ${fix}`)
  const pair = within.items.find((one) => isScalar(one.key) && one.key.value === key)
  if (pair) {
    const value = pair.value as Node
    return replace([(pair.key as Node).range![0], value.range![1]], fix)
  }
  const first = (within.items[0]!.key as Node).range![0]
  const column = columnOf(first)
  // The first entry of an element of a list has the dash before it.
  return text.slice(lineStart(first), first).trim() === '-'
    ? `${text.slice(0, first)}${fix}\n${' '.repeat(column)}${text.slice(first)}`
    : insertBefore(first, ' '.repeat(column))
}

test('the document passes the JSON Schema that is published, and one with a wrong name does not', () => {
  const published = z.fromJSONSchema(jsonSchemaOf('tenant') as Parameters<typeof z.fromJSONSchema>[0])
  expect(published.safeParse(parseYaml(PASSING)).error).toBeUndefined()
  expect(published.safeParse(parseYaml(PASSING.replace('currency:', 'curency:'))).success).toBe(false)
})

describe('the checklist', () => {
  test('has at least 24 checks, each with a document that fails it', () => {
    expect(tenantChecks.length).toBeGreaterThanOrEqual(24)
    expect(Object.keys(FAILING).sort()).toEqual(tenantChecks.map(({ id }) => id).sort())
  })

  test('finds nothing in a complete document, and says what it could not ask', async () => {
    const { findings, rules } = await examine(PASSING)
    expect(findings).toEqual([])
    expect(rules.filter(({ notRun }) => notRun === 'not run offline').map(({ id }) => id)).toEqual([
      'tenant/webhook-signed-test',
      'tenant/backup-manifests',
      'tenant/kms-signs',
      'tenant/isolation-probe',
      'tenant/jwks-reachable',
    ])
  })

  test.each(Object.entries(FAILING))('%s fails alone, at its line', async (id, { edit, line }) => {
    const text = edit.reduce((before, [from, to]) => {
      expect(before).toContain(from)
      return before.replaceAll(from, to)
    }, PASSING)
    const { findings } = await examine(text)
    expect([...new Set(findings.map((one) => one.id))]).toEqual([id])
    const [finding] = findings
    expect(text.split('\n')[(finding?.location?.line ?? 0) - 1]?.trim()).toBe(line)
    expect(finding?.message).not.toMatch(/undefined|NaN|\[object/)
    expect(finding?.fix).toBeTruthy()
  })

  test.each(Object.entries(FAILING))('%s passes once its fix is pasted', async (id, { edit }) => {
    let text = edit.reduce((before, [from, to]) => before.replaceAll(from, to), PASSING)
    const failing = async () => (await examine(text)).findings.filter((one) => one.id === id)
    for (let left = await failing(); left.length > 0; left = await failing()) {
      const [{ fix, evidence }] = left as [Finding]
      text = paste(text, String(evidence.path).split('.'), filled(fix!))
      expect((await failing()).length, text).toBeLessThan(left.length)
    }
  })

  test.each([
    ['in blocks', (document: Document) => document.toString()],
    [
      'in one line each',
      (document: Document) => document.toString({ collectionStyle: 'flow', lineWidth: 0 }),
    ],
    ['without what may be left out', () => 'slug: new\nname: New\n'],
    ['with shared blocks', () => 'slug: new\nname: New\nrefunds:\n  approvers: &who []\nlocales: *who\n'],
  ])(
    'leads from a document %s to one that lacks nothing, by what it says to paste alone',
    async (_, written) => {
      const document = new Document({
        slug: 'new',
        name: 'New',
        items: [
          { code: 'GP', tax: 'luxury' },
          { code: 'OLD', sellable: false },
        ],
        priceLists: [
          {
            name: 'a',
            currency: 'USD',
            from: '2026-03-21T00:00:00Z',
            to: '2026-12-01T00:00:00Z',
            prices: [
              { item: 'GP', amountMinor: 1 },
              { item: 'GP', amountMinor: 2 },
              { item: 'XRAY', amountMinor: 3 },
            ],
          },
          { name: 'b', currency: 'AFN', from: '2026-11-21T00:00:00Z', to: '2026-11-29T00:00:00Z' },
        ],
        accounts: [
          { code: 'cash', currency: 'AFN', openingMinor: 7 },
          { code: 'cash', currency: 'AFN', openingMinor: 0 },
        ],
        identity: {
          issuer: 'http://id.example',
          jwksUri: 'https://id.example/jwks',
          admins: [{ user: 'u', mfa: 'none' }],
        },
        messaging: { templates: [{ name: 'visit-summary', channel: 'email', locale: 'fa-AF' }] },
        residency: { backups: [{ label: 'nightly', region: 'eu-west' }] },
      })
      let text = written(document)
      const pasted: string[] = []
      for (let { findings } = await examine(text); findings.length > 0; { findings } = await examine(text)) {
        const [{ fix, evidence, id }] = findings as [Finding]
        pasted.push(`${id}: ${fix}`)
        expect(pasted.length, pasted.join('\n')).toBeLessThan(100)
        text = paste(text, String(evidence.path).split('.'), filled(fix!))
      }
      expect((await examine(text)).findings).toEqual([])
    },
  )

  test('tells all that fails, in the order of the checklist', async () => {
    const { findings } = await examine('slug: new\nname: New\n')
    const failed = [...new Set(findings.map(({ id }) => id))]
    expect(failed).toHaveLength(24)
    const order = tenantChecks.map(({ id }) => id as string)
    expect(failed.map((id) => order.indexOf(id))).toEqual(
      failed.map((id) => order.indexOf(id)).sort((a, b) => a - b),
    )
  })

  test('finds a gap or an overlap of price lists exactly where a day has no list or two', async () => {
    const day = (n: number) => new Date(NOW.getTime() + n * 86_400_000)
    const span = fc.record({ from: fc.integer({ min: -10, max: 20 }), days: fc.integer({ min: 1, max: 15 }) })
    const parsed = parseTenant(PASSING)
    if (parsed.kind === 'invalid') throw new Error('unexpected')
    await fc.assert(
      fc.asyncProperty(fc.array(span, { minLength: 1, maxLength: 5 }), async (spans) => {
        const priceLists = spans.map(({ from, days }, i) => ({
          ...parsed.tenant.priceLists[0]!,
          name: `list ${i}`,
          from: day(from).toISOString(),
          to: day(from + days).toISOString(),
        }))
        const tenant = { ...parsed.tenant, priceLists }
        const { findings } = await examineTenants([{ tenant }], { now: NOW, categories: ['money'] })
        const failed = new Set(findings.map(({ id }) => id))
        // Lists begin and end with days, so a day has one answer for all of itself.
        const listsOn = (n: number) => spans.filter(({ from, days }) => from <= n && n < from + days).length
        const first = Math.min(...spans.map(({ from }) => from))
        const last = Math.max(...spans.map(({ from, days }) => from + days))
        const days = Array.from({ length: last - first }, (_, i) => first + i)
        expect(failed.has('tenant/price-list-overlaps')).toBe(days.some((n) => listsOn(n) > 1))
        expect(failed.has('tenant/price-list-gaps')).toBe(days.some((n) => n >= 0 && listsOn(n) === 0))
        expect(failed.has('tenant/price-list-lapsing')).toBe(last <= 7)
      }),
      { numRuns: 300 },
    )
  })

  test('asks only the categories that are wanted', async () => {
    const parsed = parseTenant('slug: new\nname: New\n')
    if (parsed.kind === 'invalid') throw new Error('unexpected')
    const { rules, findings } = await examineTenants([parsed], { now: NOW, categories: ['privacy'] })
    expect(new Set(rules.map(({ category }) => category))).toEqual(new Set(['privacy']))
    expect(findings.map(({ id }) => id)).toEqual([
      'tenant/subject-keys',
      'tenant/erasure-contact',
      'tenant/retention-policy',
    ])
  })
})
