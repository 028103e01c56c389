import { Writable } from 'node:stream'
import { execa } from 'execa'
import { openFonts } from '../../src/domain/statements/fonts.ts'
import { type Rendered, type RenderOptions, renderStatement } from '../../src/domain/statements/render.ts'
import type { Statement, StatementLine } from '../../src/domain/statements/statement.ts'
import { requirePrograms } from '../../src/sandbox/servers/find.ts'

export const fonts = openFonts()

/** A statement of a clinic in Herat, with what a test says otherwise. */
export function statement(differs: Partial<Statement> = {}): Statement {
  return {
    language: 'fa-AF',
    number: 'S-2026-10-000123',
    issuedOn: '2026-11-01',
    period: { from: '2026-10-01', to: '2026-10-31' },
    issuer: { name: 'شفاخانهٔ هرات مرکز', address: ['جادهٔ مخابرات'], phone: '+93 40 222 3344' },
    patient: { name: 'محمد کریم احمدی', id: 'P-004512', address: [] },
    account: { number: 'AC-77-1203' },
    openings: [{ currency: 'AFN', amountMinor: 150_000 }],
    lines: [line('مشاورهٔ ویدیویی', 50_000), line('پرداخت نقدی', -123_405)],
    ageing: [],
    ...differs,
  }
}

export const line = (description: string, amountMinor = 50_000): StatementLine => ({
  date: '2026-10-03',
  description,
  reference: 'RX-2231',
  currency: 'AFN',
  amountMinor,
})

/** Renders into memory. */
export async function pdfOf(
  given: Statement,
  options: Omit<RenderOptions, 'out'> = {},
): Promise<Rendered & { pdf: Buffer }> {
  const chunks: Buffer[] = []
  const out = new Writable({
    write(chunk, _, done) {
      chunks.push(chunk)
      done()
    },
  })
  const rendered = await renderStatement(fonts, given, { out, ...options })
  return { ...rendered, pdf: Buffer.concat(chunks) }
}

// What pdftotext puts round text of the other direction.
const EMBEDDINGS = /[\u202a-\u202c]/g

/** What pdftotext reads in a PDF, without its embeddings. */
export async function textOf(pdf: Buffer, ...argv: string[]): Promise<string> {
  const { pdftotext } = await requirePrograms(['pdftotext'])
  const { stdout } = await execa(pdftotext, [...argv, '-', '-'], { input: pdf })
  return stdout.replace(EMBEDDINGS, '')
}
