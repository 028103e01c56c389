import { PDFiumLibrary } from '@hyzyla/pdfium'
import { getDocument } from 'pdfjs-dist/legacy/build/pdf.mjs'
import { afterAll, expect, test } from 'vitest'
import type { Language } from '../../src/domain/statements/statement.ts'
import { line, linesPage, MIXED, pdfOf, statement, textOf, withoutControls } from './support.ts'

const pdfium = await PDFiumLibrary.init()
afterAll(() => pdfium.destroy())

/** What PDFium reads of all pages, as Chromium's viewer copies it. */
async function readByPdfium(pdf: Buffer): Promise<string> {
  const document = await pdfium.loadDocument(pdf)
  const texts = Array.from(document.pages(), (page) => page.getText())
  document.destroy()
  return withoutControls(texts.join('\n'))
}

// pdf.js puts a line in order by its own guess, from what it sees from left to right.
const MISREAD_BY_PDFJS = [MIXED[3], MIXED[10], MIXED[14], MIXED[15]]

/** What pdf.js reads of all pages, a string a line. */
async function readByPdfJs(pdf: Buffer): Promise<string[]> {
  const loading = getDocument({ data: new Uint8Array(pdf), verbosity: 0 })
  const document = await loading.promise
  const lines: string[] = []
  for (let n = 1; n <= document.numPages; n++) {
    const { items } = await (await document.getPage(n)).getTextContent()
    const byHeight = new Map<number, string>()
    for (const item of items) {
      if (!('str' in item)) continue
      const height = Math.round(item.transform[5])
      byHeight.set(height, (byHeight.get(height) ?? '') + item.str)
    }
    lines.push(...[...byHeight].sort(([a], [b]) => b - a).map(([, text]) => text.trim()))
  }
  await loading.destroy()
  return lines
}

test('pdftotext reads every mixed line exactly', async () => {
  const text = await textOf(await linesPage(MIXED))
  expect(text.split('\n').filter((read) => read.trim() !== '')).toEqual(MIXED)
})

test('pdf.js reads three mixed lines of four exactly, and every word of the others', async () => {
  const read = (await readByPdfJs(await linesPage(MIXED))).filter((text) => text !== '')
  expect(MIXED.filter((text, i) => read[i] !== text)).toEqual(MISREAD_BY_PDFJS)
  const wordsOf = (text = '') =>
    text
      .replace(/[()+؋]/g, '')
      .split(' ')
      .sort()
  for (const [i, text] of MIXED.entries()) expect(wordsOf(read[i])).toEqual(wordsOf(text))
})

// What the readers must not turn round, wherever it stands among right-to-left words.
const CODES = [
  ...['RX-1', 'A-RX-1', 'INV-2026/10-A', '12-AB', 'COVID-19', 'E11.9', 'B12', '100mg', '3x1', 'AC/77:1203'],
  ...['3f2b8c1e-77aa-4c0e-9d11-0a1b2c3d4e5f', 'info@clinic-herat.af', 'a_b.c#7', 'https://x.af/a?b=1', 'a<b'],
  ...[
    '+93 79 912 3456',
    '+93 (0)70 123 4567',
    '2026-10-09',
    '10:30',
    '۱۴۰۵/۰۷/۱۱',
    'Amoxicillin 500 mg',
    'Vit. C',
  ],
  ...['−500', '−۱٬۲۳۴', '۲٬۵۰۰٫۵۰', '1,234.50', 'USD 1,000.00', '۱۲۳۴'],
]
// An English page puts signs at the edge of a Dari number on its other side (UAX #9), where pdftotext leaves them.
const SIGNED = ['12.5%', '۵۰٪', '#12']
const SENTENCES: Record<Language, (code: string) => string[]> = {
  'fa-AF': (code) => [`${code} برای بیمار`, `قرص ${code} برای بیمار`, `قرص برای ${code}`],
  'ps-AF': (code) => [`${code} د ناروغ`, `د ${code} ګولۍ`, `د ناروغ: ${code}`],
  ar: (code) => [`${code} للمريض`, `دواء ${code} للمريض`, `دواء للمريض، ${code}`],
  en: (code) => [`${code} برای بیمار`, `paid ${code} for بیمار`, `paid ${code}`],
}

test('amounts, dates and codes of every language are read exactly by pdftotext, pdf.js and PDFium', async () => {
  const printed = {
    'fa-AF': ['۱٬۵۰۰٫۰۰', '۱۴۰۵/۰۷/۱۱', '−۱٬۲۳۴٫۰۵', '۲۶۵٫۹۵'],
    'ps-AF': ['۱٬۵۰۰٫۰۰', '۱۴۰۵/۰۷/۱۱', '−۱٬۲۳۴٫۰۵', '۲۶۵٫۹۵'],
    ar: ['١٬٥٠٠٫٠٠', '٢٠٢٦/١٠/٠٣', '−١٬٢٣٤٫٠٥', '٢٦٥٫٩٥'],
    en: ['1,500.00', '2026-10-03', '−1,234.05', '265.95'],
  }
  for (const [language, figures] of Object.entries(printed) as [Language, string[]][]) {
    const codes = language === 'en' ? CODES : [...CODES, ...SIGNED]
    const sentences = codes.flatMap(SENTENCES[language])
    const { pdf } = await pdfOf(
      statement({
        language,
        patient: {
          name: 'محمد کریم',
          id: '7c1e3f2b-77aa-4c0e-9d11-0a1b2c3d4e5f',
          phone: '+93 70 555 0101',
          address: [],
        },
        lines: [
          line('پرداخت', -123_405),
          ...sentences.map((text) => ({ ...line(text, 0), currency: 'USD' })),
        ],
        payment: { reference: 'S-2026-10-000123' },
      }),
    )
    const readers = {
      pdftotext: await textOf(pdf, '-layout'),
      'pdf.js': (await readByPdfJs(pdf)).join('\n'),
      PDFium: await readByPdfium(pdf),
    }
    for (const [reader, text] of Object.entries(readers)) {
      const times = (wanted: string) => text.split(wanted).length - 1
      for (const wanted of [
        ...[...figures, 'AFN', 'AC-77-1203', 'S-2026-10-000123'],
        ...['7c1e3f2b-77aa-4c0e-9d11-0a1b2c3d4e5f', '+93 70 555 0101', '+93 40 222 3344'],
      ]) {
        expect(times(wanted), `${reader} reads ${wanted} in ${language}`).toBeGreaterThanOrEqual(1)
      }
      expect(times('RX-2231'), `${reader} reads the codes in ${language}`).toBe(sentences.length + 1)
      for (const code of codes) {
        expect(times(code), `${reader} reads ${code} in ${language}`).toBeGreaterThanOrEqual(3)
      }
    }
  }
}, 60_000)

test('PDFium reads words, and sentences without codes, as they are', async () => {
  const sentences = MIXED.filter((text) => !/[a-z()[«]|93/i.test(text))
  // Two marks on one letter come in the other order, which is the same text (Unicode, canonical equivalence).
  const read = (await readByPdfium(await linesPage(MIXED))).normalize()
  for (const text of sentences) expect(read).toContain(text.normalize())
  for (const word of MIXED.flatMap((text) => text.split(/[ ()[\]«»]/)))
    expect(read).toContain(word.normalize())
})

test('what a character copies as does not depend on how it is joined', async () => {
  const words = 'ککک ييي ههه لالا ښښښ ۀ ةة ىى یی'
  const { pdf } = await pdfOf(statement({ lines: [line(words)] }))
  expect(await textOf(pdf)).toContain(words)
})
