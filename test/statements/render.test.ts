import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { figuresOf } from '../../src/domain/statements/figures.ts'
import { parseStatement } from '../../src/domain/statements/parse.ts'
import { packageRoot } from '../../src/package-root.ts'
import { line, pdfOf, statement, textOf } from './support.ts'

test('a Dari statement has its words, its figures in Persian digits and both calendars', async () => {
  const { pdf, pages, lines, flaws } = await pdfOf(statement())
  expect({ pages, lines, flaws }).toEqual({ pages: 1, lines: 2, flaws: [] })
  const text = await textOf(pdf, '-layout')
  for (const word of ['صورت‌حساب', 'محمد کریم احمدی', 'AC-77-1203', '+93 40 222 3344', 'P-004512']) {
    expect(text).toContain(word)
  }
  for (const figure of [
    '۱٬۵۰۰٫۰۰',
    '۵۰۰٫۰۰',
    '−۱٬۲۳۴٫۰۵',
    '۷۶۵٫۹۵',
    '۱۴۰۵/۰۷/۱۱',
    '۲۰۲۶',
    'میزان',
    'اکتوبر',
  ]) {
    expect(text).toContain(figure)
  }
})

test('money is written as Intl writes it, with a minus sign', () => {
  const numerals = { 'fa-AF': 'arabext', 'ps-AF': 'arabext', ar: 'arab', en: 'latn' } as const
  for (const [language, numberingSystem] of Object.entries(numerals)) {
    const { money } = figuresOf(language as 'en')
    for (const [currency, places] of [
      ['AFN', 2],
      ['JPY', 0],
      ['KWD', 3],
      ['CLF', 4],
    ] as const) {
      const fraction = { minimumFractionDigits: places, maximumFractionDigits: places }
      const format = new Intl.NumberFormat(language, { numberingSystem, ...fraction })
      fc.assert(
        fc.property(fc.bigInt({ min: -(10n ** 18n), max: 10n ** 18n }), fc.nat(18), (value, power) => {
          const minor = value / 10n ** BigInt(power)
          const text = `${minor < 0n ? -minor : minor}`.padStart(places + 1, '0')
          const at = text.length - places
          const exact = `${text.slice(0, at)}.${text.slice(at)}0` as `${number}`
          expect(money(minor, currency)).toBe(`${minor < 0n ? '−' : ''}${format.format(exact)}`)
        }),
      )
    }
  }
})

test('the same input gives the same bytes', async () => {
  const [one, other] = [await pdfOf(statement()), await pdfOf(statement())]
  expect(one.pdf.equals(other.pdf)).toBe(true)
})

test('a character that no font has is told and copies as itself', async () => {
  const { pdf, flaws } = await pdfOf(statement({ lines: [line('دوا 漢')] }))
  expect(flaws).toEqual([
    { flaw: 'U+6F22 is in no font and printed as U+FFFD', place: 'lines[0].description' },
  ])
  expect(await textOf(pdf)).toContain('漢')
})

test('the example in docs/statements.md is a statement', async () => {
  const guide = await readFile(join(packageRoot(), 'docs/statements.md'), 'utf8')
  const example = /```json\n([\s\S]*?)```/.exec(guide)?.[1] ?? ''
  const { lines, flaws } = await pdfOf(parseStatement(example, 'docs/statements.md'))
  expect({ lines, flaws }).toEqual({ lines: 3, flaws: [] })
})

test('what is no statement is told with its paths, and without quoting it', () => {
  const told = (json: string) => {
    try {
      parseStatement(json, 'x.json')
    } catch (error) {
      return (error as Error).message
    }
    return ''
  }
  const valid = JSON.stringify(statement())
  expect(told('{"patient": "محمد')).toMatch(/x\.json is no statement:\n {2}it is not JSON/)
  expect(told('{"patient": "محمد')).not.toContain('محمد')
  expect(told('[]')).toContain('the document: ')
  expect(told(valid.replace('"AFN"', '"ABC"'))).toContain(
    'openings[0].currency: "ABC" is no active ISO 4217 currency',
  )
  expect(told(valid.replace('2026-10-03', '1405-07-45'))).toContain('lines[0].date: must be a day')
  expect(told(valid.replace('150000', '1500.5'))).toContain('openings[0].amountMinor: must be a whole number')
})

test('an ageing that is not of the closing balance is refused', async () => {
  const ageing = [{ currency: 'AFN', current: 1, over30: 0, over60: 0, over90: 0 }]
  await expect(pdfOf(statement({ ageing }))).rejects.toMatchObject({ code: 'STATEMENT_INVALID' })
})

test('no control character in a text moves an amount or any other cell', async () => {
  const amounts = (text: string) => text.match(/[−۰-۹٬٫]+٫[۰-۹]{2}/g)
  const honest = await pdfOf(statement({ lines: [line('پرداخت 100'), line('نقدی', -12_345)] }))
  const texts = [
    '\u202e\u202d\u2066\u2067\u2068',
    '\u2069\u2069\u202c\u202c',
    '\u202b\u2067\u202e 999 AFN',
    '\u0000\ud800\u2028\u061c',
  ]
  const spoofed = await pdfOf(
    statement({
      patient: { name: `محمد ${texts[2]}`, address: [] },
      lines: [
        { ...line(`پرداخت 100${texts[0]}`), reference: `RX${texts[2]}` },
        line(`${texts[1]}نقدی${texts[2]}${texts[3]}`, -12_345),
      ],
    }),
  )
  expect(amounts(await textOf(spoofed.pdf, '-layout'))).toEqual(amounts(await textOf(honest.pdf, '-layout')))
  expect(spoofed.flaws.map(({ flaw }) => flaw)).toEqual([
    'an override of the direction of text is left out',
    'half a surrogate pair is printed as U+FFFD',
  ])
})

test('a description of many pages runs on over them, whatever it is made of', async () => {
  for (const text of ['مشاورهٔ ویدیویی ', 'ب', '\u2067a\u2069 ', '12-ab ', '\n', '😀']) {
    const long = text.repeat(Math.ceil(12_000 / text.length))
    const { pages } = await pdfOf(statement({ lines: [line(long), line('پایان')] }))
    expect(pages).toBeGreaterThan(2)
  }
}, 60_000)

test('an amount of any size stays on one line, and the headings with what they head', async () => {
  const huge = { ...line('بیمه'), amountMinor: '-999999999999999999' }
  const address = (count: number) => Array.from({ length: 6 }, () => 'ن '.repeat(count))
  for (let count = 120; count < 240; count += 8) {
    const issuer = { ...statement().issuer, address: address(count) }
    const { pdf } = await pdfOf(statement({ issuer, lines: [huge] }))
    const pages = (await textOf(pdf, '-layout')).split('\f')
    expect(pages.join()).toContain('−۹٬۹۹۹٬۹۹۹٬۹۹۹٬۹۹۹٬۹۹۹٫۹۹')
    expect(pages.find((page) => page.includes('شرح'))).toContain('بیلانس ابتدایی')
  }
})

test('what is left out or replaced is told with its place in the document', async () => {
  const { flaws } = await pdfOf(
    statement({
      patient: { name: 'محمد\u202e', address: [] },
      lines: [line(`ا${'\u0651'.repeat(7)}`), line('تمام\u3000عرض\u2009')],
    }),
  )
  expect(flaws).toEqual([
    { flaw: 'an override of the direction of text is left out', place: 'patient.name' },
    { flaw: 'more marks than six on a letter are left out', place: 'lines[0].description' },
  ])
})

test('totals never stand alone on a page, and each page of a table has its headings', async () => {
  for (let count = 24; count < 36; count++) {
    const lines = Array.from({ length: count }, (_, i) => line(`معاینه ${i}`))
    const pages = (await textOf((await pdfOf(statement({ lines }))).pdf, '-layout')).split('\f')
    const last = pages.find((page) => page.includes('بیلانس نهایی'))!
    expect(last).toContain(`معاینه ${count - 1}`)
    for (const page of pages.filter((one) => one.includes('معاینه'))) expect(page).toContain('شرح')
  }
})

test('pages are numbered in the digits of the reader', async () => {
  const lines = Array.from({ length: 300 }, () => line('معاینه'))
  const inDari = await pdfOf(statement({ lines }))
  expect(await textOf(inDari.pdf)).toContain(
    'صفحهٔ ۲ از ۱۱'.replace('۱۱', inDari.pages.toLocaleString('fa-AF')),
  )
  const inEnglish = await pdfOf(statement({ lines, language: 'en' }))
  expect(await textOf(inEnglish.pdf)).toContain(`Page 2 of ${inEnglish.pages}`)
})

test('the basic statement has the same words and figures in the same order, one font and no picture', async () => {
  const given = statement({
    lines: [line('مشاورهٔ (۳۰ دقیقه)'), line('پرداخت نقدی', -12_345), { ...line('USD', 99), currency: 'USD' }],
    payment: { reference: 'S-1' },
  })
  const [full, basic] = [await pdfOf(given), await pdfOf(given, { basic: true })]
  const words = (text: string) => text.split(/\s+/)
  expect(words(await textOf(basic.pdf, '-layout'))).toEqual(words(await textOf(full.pdf, '-layout')))
  expect(basic.pdf.length).toBeLessThan(full.pdf.length / 1.5)
  expect(basic.pdf.toString('latin1')).not.toMatch(/StructTreeRoot|Vazirmatn-Bold/)
})
