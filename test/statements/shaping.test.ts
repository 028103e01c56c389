import { createRequire } from 'node:module'
import { execa } from 'execa'
import * as hb from 'harfbuzzjs'
import { expect, test } from 'vitest'
import { requirePrograms } from '../../src/sandbox/servers/find.ts'
import { fonts } from './support.ts'

const FONT = createRequire(import.meta.url).resolve('vazirmatn/fonts/ttf/Vazirmatn-Regular.ttf')
const shapeWord = fonts.inStyle({ language: 'fa', bold: false })
const [regular] = fonts.faces

/** Words that Dari, Pashto and Arabic have for languages, countries, scripts and currencies. */
function realWords(): string[] {
  const codes = {
    language: pairs('abcdefghijklmnopqrstuvwxyz'),
    region: pairs('ABCDEFGHIJKLMNOPQRSTUVWXYZ'),
    currency: Intl.supportedValuesOf('currency'),
    script: [
      'Arab',
      'Latn',
      'Cyrl',
      'Grek',
      'Hebr',
      'Deva',
      'Beng',
      'Thai',
      'Hang',
      'Hans',
      'Hant',
      'Jpan',
      'Armn',
    ],
  }
  return ['fa-AF', 'ps-AF', 'ar'].flatMap((language) =>
    Object.entries(codes).flatMap(([type, all]) => {
      const names = new Intl.DisplayNames(language, { type: type as 'region', fallback: 'none' })
      return all.flatMap((code) => names.of(code)?.split(/[\s()\-،]+/) ?? [])
    }),
  )
}

const pairs = (letters: string): string[] => [...letters].flatMap((a) => [...letters].map((b) => a + b))

const LETTERS = [...'ابپتټثجچځحخڅدډذرړزژږسشښصضطظعغفقکكګگلمنڼوهءئؤأآإىيیېۍئةلا']
const MARKS = [...'\u064b\u064c\u064d\u064e\u064f\u0650\u0651\u0652\u0654\u0670\u200c']

/** Words that nobody wrote: characters at random, a quarter of them with a mark behind it. */
function madeWords(count: number, letters: readonly string[], marks: readonly string[]): string[] {
  let state = 42
  const below = (limit: number) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff
    return (state >> 8) % limit
  }
  return Array.from({ length: count }, () =>
    Array.from({ length: 2 + below(8) }, () => {
      const letter = letters[below(letters.length)]!
      return below(4) === 0 ? letter + marks[below(marks.length)]! : letter
    }).join(''),
  )
}

test('10,000 Dari, Pashto and Arabic words have the glyphs that hb-shape gives them', async () => {
  const { 'hb-shape': program } = await requirePrograms(['hb-shape'])
  const real = [...new Set(realWords())].filter(
    (word) => regular!.covers(word) && /^\p{Script=Arab}/u.test(word),
  )
  const words = [...real, ...madeWords(10_000 - real.length, LETTERS, MARKS)]
  expect(real.length).toBeGreaterThan(1_500)
  expect(words.length).toBe(10_000)
  const argv = [
    '--direction=rtl',
    '--language=fa',
    '--no-glyph-names',
    '--no-clusters',
    '--cluster-level=1',
    FONT,
  ]
  const { stdout } = await execa(program, argv, { input: words.join('\n') })
  const wrong = stdout.split('\n').flatMap((line, i) => {
    const theirs = line
      .slice(1, -1)
      .split('|')
      .filter((glyph) => glyph !== INVISIBLE)
    const ours = shapeWord(words[i]!, true).flatMap(({ clusters }) =>
      clusters.flatMap(({ glyphs }) =>
        glyphs.map(({ id, x, y, advance }) => `${id}${x || y ? `@${x},${y}` : ''}+${advance}`),
      ),
    )
    return theirs.join('|') === ours.join('|')
      ? []
      : [`${words[i]}: ${ours.join('|')} not ${theirs.join('|')}`]
  })
  expect(wrong).toEqual([])
})

// What stands for a ZWNJ: a space of no width.
const INVISIBLE = `${regular!.blank}+0`

test('numbers and codes are put together as hb-shape shapes them whole', async () => {
  const { 'hb-shape': program } = await requirePrograms(['hb-shape'])
  const signs = [...'0123456789۰۱۲۳۴۵۶۷۸۹٠١٢٣٤٥٦٧٨٩', ...'٬٫−.,-/:()#+&@_%"', ...'AVWTYLPRXafilortvwy']
  const codes = madeWords(3_000, signs, signs)
  codes.push('−۱٬۲۳۴٬۵۶۷٫۸۹', '−١٬٢٣٤٬٥٦٧٫٨٩', '1,234,567.89', 'RX-2231/7', 'AV1TA', '٠٫٠٥')
  for (const [language, bold] of [['fa-AF'], ['ps-AF', true], ['ar'], ['en', true]] as [string, boolean?][]) {
    const file = bold ? FONT.replace('Regular', 'Bold') : FONT
    const argv = ['--direction=ltr', `--language=${language}`, '--no-glyph-names', '--no-clusters', file]
    const { stdout } = await execa(program, argv, { input: codes.join('\n') })
    const shapeCode = fonts.inStyle({ language, bold: bold === true })
    const wrong = stdout.split('\n').filter((line, i) => {
      const ours = shapeCode(codes[i]!, false).flatMap(({ clusters }) =>
        clusters.flatMap(({ glyphs }) => glyphs.map(({ id, advance }) => `${id}+${advance}`)),
      )
      return line !== `[${ours.join('|')}]`
    })
    expect(wrong, language).toEqual([])
  }
})

test('an embedded font draws every glyph as the whole font does, and again where it is appended', () => {
  for (const { glyphCount, font, subset, name } of fonts.faces) {
    const all = Array.from({ length: glyphCount }, (_, id) => id)
    const kept = all.filter((id) => id % 3 === 0)
    const cut = new hb.Font(new hb.Face(new hb.Blob(subset(kept, all))))
    for (const id of all) {
      for (const shown of id % 3 === 0 ? [id, glyphCount + id] : [glyphCount + id]) {
        expect(cut.glyphToPath(shown), `${name} ${id}`).toBe(font.glyphToPath(id))
        expect(cut.glyphHAdvance(shown), `${name} ${id}`).toBe(font.glyphHAdvance(id))
      }
    }
    expect(subset([3], []).length).toBeLessThan(15_000)
  }
})
