import { getDocument } from 'pdfjs-dist/legacy/build/pdf.mjs'
import { expect, test } from 'vitest'
import { line, linesPage, MIXED, pdfOf, statement, textOf } from './support.ts'

// pdf.js puts a line in order by its own guess, from what it sees from left to right.
const MISREAD_BY_PDFJS = [MIXED[3], MIXED[10], MIXED[14], MIXED[15]]

/** What pdf.js reads, a string a line. */
async function readByPdfJs(pdf: Buffer): Promise<string[]> {
  const loading = getDocument({ data: new Uint8Array(pdf), verbosity: 0 })
  const { items } = await (await (await loading.promise).getPage(1)).getTextContent()
  const byHeight = new Map<number, string>()
  for (const item of items) {
    if (!('str' in item)) continue
    const height = Math.round(item.transform[5])
    byHeight.set(height, (byHeight.get(height) ?? '') + item.str)
  }
  await loading.destroy()
  return [...byHeight].sort(([a], [b]) => b - a).map(([, text]) => text.trim())
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

test('amounts, dates and codes of every language read as they are printed, by either reader', async () => {
  const printed = {
    'fa-AF': ['۱٬۵۰۰٫۰۰', '۱۴۰۵/۰۷/۱۱', '−۱٬۲۳۴٫۰۵', '۷۶۵٫۹۵'],
    'ps-AF': ['۱٬۵۰۰٫۰۰', '۱۴۰۵/۰۷/۱۱', '−۱٬۲۳۴٫۰۵', '۷۶۵٫۹۵'],
    ar: ['١٬٥٠٠٫٠٠', '٢٠٢٦/١٠/٠٣', '−١٬٢٣٤٫٠٥', '٧٦٥٫٩٥'],
    en: ['1,500.00', '2026-10-03', '−1,234.05', '765.95'],
  } as const
  for (const [language, figures] of Object.entries(printed)) {
    const { pdf } = await pdfOf(statement({ language: language as 'en' }))
    const readers = { pdftotext: await textOf(pdf, '-layout'), 'pdf.js': (await readByPdfJs(pdf)).join('\n') }
    for (const [reader, text] of Object.entries(readers)) {
      for (const figure of [...figures, 'RX-2231', 'AFN', 'AC-77-1203']) {
        expect(text, `${reader} reads ${figure} in ${language}`).toContain(figure)
      }
    }
  }
})

test('what a character copies as does not depend on how it is joined', async () => {
  const words = 'ککک ييي ههه لالا ښښښ ۀ ةة ىى یی'
  const { pdf } = await pdfOf(statement({ lines: [line(words)] }))
  expect(await textOf(pdf)).toContain(words)
})
