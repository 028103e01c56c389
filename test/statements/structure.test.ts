import { getDocument } from 'pdfjs-dist/legacy/build/pdf.mjs'
import { expect, test } from 'vitest'
import { line, pdfOf, statement } from './support.ts'

interface Node {
  role?: string
  children?: Node[]
}

/** The structure of a page as `Table(THead(TR(TH TH)) TBody(…))`, without the content itself. */
function outline({ role, children = [] }: Node): string {
  const inner = children.filter((child) => child.role !== undefined).map(outline)
  return inner.length === 0 ? role! : `${role}(${inner.join(' ')})`
}

test('a statement is tagged: document, table, header cells, in reading order; with language and title', async () => {
  const lines = Array.from({ length: 40 }, (_, i) => line(`معاینه ${i}`))
  const { pdf } = await pdfOf(statement({ lines, payment: { reference: 'S-1' } }))
  const loading = getDocument({ data: new Uint8Array(pdf), verbosity: 0 })
  const document = await loading.promise
  const [first, second] = await Promise.all(
    [1, 2].map(async (n) => (await document.getPage(n)).getStructTree()),
  )
  const cells = (tag: string, count: number) => Array(count).fill(tag).join(' ')
  const opening = `TR(${cells('TD', 4)}) TR(${cells('TD', 6)})`
  const head = `THead(TR(${cells('TH', 6)}))`
  expect(outline(first as Node)).toContain(
    `Root(Document(Div(P P P) H1 P P Div(P P) Div(P P P) Table(${head} TBody(${opening} `,
  )
  const sums = `Table(TR(${cells('TH', 5)}) TR(TH ${cells('TD', 4)}))`
  expect(outline(second as Node)).toContain(sums)
  expect(outline(second as Node)).toContain('Sect(Figure H2 P P P P)')
  // The headings that are printed again are an artifact.
  expect(outline(second as Node)).not.toContain('THead')

  const { info } = await document.getMetadata()
  expect(info).toMatchObject({ Language: 'fa-AF', Title: 'صورت‌حساب S-2026-10-000123' })
  expect(await document.getMarkInfo()).toMatchObject({ Marked: true })
  await loading.destroy()
})
