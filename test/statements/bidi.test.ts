import { readFile } from 'node:fs/promises'
import bidiFactory, { type Bidi } from 'bidi-js'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { directionOfText, isolateCodes, resolveLevels } from '../../src/domain/statements/bidi.ts'
import { type Line, layoutText } from '../../src/domain/statements/layout.ts'
import { requirePrograms } from '../../src/sandbox/servers/find.ts'

/** A level for each UTF-16 unit. */
function levelsOf(text: string, direction: 'ltr' | 'rtl' | 'auto'): number[] {
  const { levels } = resolveLevels(text, direction)
  return typeof levels === 'number' ? Array<number>(text.length).fill(levels) : [...levels]
}

/** The UTF-16 units of a line from left to right, each as its index in the text. */
const visualOrder = ({ pieces }: Line): number[] =>
  pieces.flatMap(({ start, end, level }) => {
    const units = Array.from({ length: end - start }, (_, i) => start + i)
    return level & 1 ? units.reverse() : units
  })

test('every row of BidiCharacterTest.txt comes out of the line layout in its order', async () => {
  const { 'unicode-data': file } = await requirePrograms(['unicode-data'])
  const rows = (await readFile(file, 'utf8')).split('\n').filter((row) => /^[0-9A-F]/.test(row))
  expect(rows.length).toBeGreaterThan(90_000)
  const wrong = rows.filter((row) => {
    const [codePoints = '', direction, , , order = ''] = row.split(';')
    const text = String.fromCodePoint(...codePoints.split(' ').map((hex) => Number.parseInt(hex, 16)))
    // A separator ends its paragraph and is part of no line.
    const separator = text.indexOf('\u2029')
    if (separator >= 0 && separator !== text.length - 1) return true
    const [line] = layoutText(() => [], text, {
      direction: (['ltr', 'rtl', 'auto'] as const)[Number(direction)]!,
    })
    const expected = order.split(' ').filter(Boolean).map(Number)
    const isShown = new Set(expected)
    const got = visualOrder(line!).filter((index) => isShown.has(index))
    return got.join() !== expected.filter((index) => index !== separator).join()
  })
  expect(wrong).toEqual([])
})

test('texts that need no algorithm get the levels that it would give them', () => {
  const bidi = (bidiFactory as unknown as () => Bidi)()
  const alphabet = [...'abc XYZ 019 ۰۹ ٠٩ ابتثجپچگڼې ًّ‌،؛؟.,:;()[]«»-–+%$#/\u200e\u2066\u2069\u202e؋٪٫٬é']
  fc.assert(
    fc.property(
      fc.array(fc.constantFrom(...alphabet), { minLength: 1 }).map((chars) => chars.join('')),
      fc.constantFrom('ltr', 'rtl', 'auto'),
      (text, direction) => {
        const own = bidi.getEmbeddingLevels(text, direction)
        expect(levelsOf(text, direction)).toEqual([...own.levels])
        expect(resolveLevels(text, direction).base).toBe(own.paragraphs[0]?.level ?? 0)
      },
    ),
    { numRuns: 3_000 },
  )
})

test('a character beyond the BMP is ordered by its own class', () => {
  const hebrewLike = '\u{1E900}\u{1E901}'
  expect(levelsOf(`a ${hebrewLike} b`, 'ltr')).toEqual([0, 0, 1, 1, 1, 1, 0, 0])
  expect(levelsOf('ا😀ب', 'rtl')).toEqual([1, 1, 1, 1])
})

test('a text is set in the direction of its letters, or of the document where they disagree', () => {
  expect(directionOfText('Amoxicillin 500 mg (30)', 'rtl')).toBe('ltr')
  expect(directionOfText('+93 70 123 4567', 'rtl')).toBe('ltr')
  expect(directionOfText('۱۲۳', 'rtl')).toBe('ltr')
  expect(directionOfText('داکتر کریم', 'ltr')).toBe('rtl')
  expect(directionOfText('قرص Amoxicillin', 'rtl')).toBe('rtl')
  expect(directionOfText('Visit with داکتر کریم', 'ltr')).toBe('ltr')
})

test('dates, telephone numbers, codes and signed numbers keep their order after an Arabic letter', () => {
  const shown = (text: string, direction: 'ltr' | 'rtl' = 'rtl') =>
    layoutText(() => [], isolateCodes(text), { direction })
      .map((line) => visualOrder(line).map((index) => isolateCodes(text)[index]))
      .map((chars) => chars.join('').replace(/[\u2066\u2069]/g, ''))[0]
  expect(shown('تا 2026-10-09')).toBe('2026-10-09 ات')
  expect(shown('تا ۲۰۲۶-۱۰-۰۹')).toBe('۲۰۲۶-۱۰-۰۹ ات')
  expect(shown('تا +93 (0)70 123 4567')).toBe('+93 (0)70 123 4567 ات')
  expect(shown('تا 12-AB-34')).toBe('12-AB-34 ات')
  expect(shown('تا −۵۰۰')).toBe('−۵۰۰ ات')
  // Brackets are mirrored when they are drawn.
  expect(shown('تا (Refund) −۵۰۰')).toBe('−۵۰۰ )Refund( ات')
  expect(shown('to تا 2026-10-09', 'ltr')).toBe('to ات 2026-10-09')
  expect(shown('MRI مغز [70553-TC]', 'ltr')).toBe('MRI زغم [70553-TC]')
  // What begins with a Latin letter is left to right by it, with all that follows.
  expect(shown('تا Co-amoxiclav 625 mg')).toBe('Co-amoxiclav 625 mg ات')
  expect(shown('تا https://clinic.af/p?id=12')).toBe('https://clinic.af/p?id=12 ات')
  // A range reads from the right, as its readers do, and after Latin words a date goes with them.
  expect(shown('تا 3-5')).toBe('5-3 ات')
  expect(shown('تا on 2026-10-09')).toBe('on 2026-10-09 ات')
})
