import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Document, isNode, isScalar, visit } from 'yaml'
import { examineTenants } from '../../src/domain/tenants/examine.ts'
import { type DocumentProblem, parseTenant } from '../../src/domain/tenants/parse.ts'
import { completeTenant } from '../../src/sandbox/tenants.ts'

function problems(text: string): string[] {
  const parsed = parseTenant(text)
  if (parsed.kind === 'tenant') return []
  return parsed.problems.map(({ line, path, message }: DocumentProblem) => `${line} ${path}: ${message}`)
}

const HEAD = 'slug: herat\nname: Herat\n'
const bomb = [
  'a: &a [x, x, x, x, x, x, x, x, x]',
  ...'bcdefghi'.split('').map((name, i) => {
    const before = 'abcdefghi'[i]
    return `${name}: &${name} [${Array(9).fill(`*${before}`).join(', ')}]`
  }),
].join('\n')

describe('a document that describes no tenant', () => {
  test.each([
    ['nothing', '', ['1 : holds no tenant; it begins with "slug: <slug>"']],
    ['a list', '- a\n- b\n', ['1 : holds no tenant; it begins with "slug: <slug>"']],
    ['binary', '\u0000\u0001\u0002', [expect.stringMatching(/^1 : /)]],
    ['two tenants', `${HEAD}---\n${HEAD}`, ['3 : a second document begins here; one file holds one tenant']],
    ['a key twice', `${HEAD}slug: kabul\n`, ['3 : slug stands twice']],
    ['a bracket left open', `${HEAD}locales: [fa-AF\n`, [expect.stringMatching(/^\d : Flow sequence/)]],
    ['an unknown tag', `${HEAD}currency: !money AFN\n`, ['3 : Unresolved tag: !money']],
    [
      'an alias of nothing',
      `${HEAD}currency: *nowhere\n`,
      ['3 : *nowhere stands for nothing: &nowhere is not set before it'],
    ],
    ['a bomb of aliases', bomb, [expect.stringMatching(/^1 : Excessive alias count/)]],
    ['brackets without end', `${HEAD}locales: ${'['.repeat(20_000)}`, ['3 : is nested too deeply']],
    ['in tabs', `${HEAD}tax:\n\tcountry: AF\n`, ['4 : Tabs are not allowed as indentation']],
    ['not in UTF-8', `${HEAD}timeZone: \uFFFD\uFFFD\n`, ['3 : is not UTF-8 from here on']],
    ['with what no database stores', `${HEAD}timeZone: "Asia\\0"\n`, ['3 : holds a NUL character']],
    [
      'in another calendar',
      `${HEAD}payment: { provider: p, account: a, verifiedAt: 1405-01-01T00:00:00Z }\n`,
      ['3 payment.verifiedAt: must be a Gregorian date: 1405-01-01 is 2026-03-21'],
    ],
    [
      'in other digits',
      `${HEAD}quotas: { patients: ۲۰۰۰۰ }\npayment: { provider: p, account: a, verifiedAt: ۲۰۲۶-۰۳-۲۱T00:00:00Z }\n`,
      [
        '3 quotas.patients: must be a number; write the digits of ۲۰۰۰۰ as 0 to 9',
        '4 payment.verifiedAt: must be a time with its offset, as 2026-03-21T00:00:00+04:30; write the digits of ۲۰۲۶-۰۳-۲۱T00:00:00Z as 0 to 9',
      ],
    ],
    [
      'a mark of bytes and Windows line ends before what is wrong',
      `\uFEFFslug: herat\r\nname: Herat\r\ncurency: AFN\r\n`,
      ['3 curency: is not known; did you mean currency?'],
    ],
    ['a megabyte', `${HEAD}# ${'x'.repeat(1_000_000)}`, [expect.stringMatching(/at most 1000000/)]],
  ])('is told to be %s', (_, text, expected) => {
    expect(problems(text).slice(0, expected.length)).toEqual(expected)
  })

  test('is told everything at once, by line, with what was probably meant', () => {
    const text = [
      'slug: Herat Markaz',
      'name: Herat',
      'curency: AFN',
      'locales: fa-AF',
      'priceLists:',
      '  - name: 1405',
      '    currency: AFN',
      '    from: 2026-03-21',
      '    prices:',
      '      - { item: GP, amountMinor: 12.5 }',
      '      - { itme: GP, amountMinor: -1 }',
      'refunds: { approvers: [<user id>] }',
      '__proto__: { status: live }',
    ].join('\n')
    expect(problems(text)).toEqual([
      '1 slug: must be lower-case words with hyphens: herat-markaz',
      '3 curency: is not known; did you mean currency?',
      '4 locales: must be a list',
      '6 priceLists.0.name: must be text',
      '8 priceLists.0.from: must be a time with its offset, as 2026-03-21T00:00:00+04:30',
      '10 priceLists.0.prices.0.amountMinor: must be a whole number',
      '11 priceLists.0.prices.1.item: is missing: text',
      '11 priceLists.0.prices.1.amountMinor: must be at least 0',
      '11 priceLists.0.prices.1.itme: is not known; did you mean item?',
      '12 refunds.approvers.0: must be 1 to 64 letters, digits or . : / - _',
      '13 __proto__: is not known',
    ])
  })

  test('may share blocks by anchors', () => {
    expect(problems(`${HEAD}locales: &l [fa-AF]\nrefunds: { approvers: *l }\n`)).toEqual([])
    const account =
      'accounts:\n  - &a { code: cash, currency: AFN, openingMinor: 0 }\n  - { <<: *a, code: tax }\n'
    expect(problems(`${HEAD}${account}`)).toEqual([])
  })
})

test('whatever a part of a document becomes, it is told as a problem or as findings, never thrown', async () => {
  const whole = completeTenant({ slug: 'herat', name: 'Herat', currency: 'AFN', region: 'af-herat' })
  const anything = fc.oneof(
    fc.constant(null),
    fc.constant(''),
    fc.integer(),
    fc.double(),
    fc.string({ unit: 'binary' }),
    fc.constant([]),
    fc.constant({}),
  )
  await fc.assert(
    fc.asyncProperty(fc.nat(400), anything, async (at, value) => {
      const document = new Document(JSON.parse(JSON.stringify(whole)))
      let seen = 0
      visit(document, (key, node) => {
        if (key === 'key' || !isNode(node)) return undefined
        seen += 1
        return seen === at && isScalar(node) ? document.createNode(value) : undefined
      })
      const parsed = parseTenant(document.toString())
      if (parsed.kind === 'invalid') expect(parsed.problems.length).toBeGreaterThan(0)
      else await examineTenants([parsed], { now: new Date() })
    }),
    { numRuns: 300 },
  )
})
