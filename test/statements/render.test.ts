import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
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
