import { Writable } from 'node:stream'
import { execa } from 'execa'
import { type Direction, directionOfText, isolateCodes } from '../../src/domain/statements/bidi.ts'
import { createCanvas } from '../../src/domain/statements/canvas.ts'
import { openFonts } from '../../src/domain/statements/fonts.ts'
import { layoutText } from '../../src/domain/statements/layout.ts'
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
  const { out, written } = memory()
  const rendered = await renderStatement(fonts, given, { out, ...options })
  return { ...rendered, pdf: written() }
}

function memory() {
  const chunks: Buffer[] = []
  const out = new Writable({
    write(chunk, _, done) {
      chunks.push(chunk)
      done()
    },
  })
  return { out, written: () => Buffer.concat(chunks) }
}

/** Lines in which directions, digits, brackets, marks and ligatures meet. */
export const MIXED = [
  'قرص Amoxicillin 500 mg برای ۷ روز',
  'مشاورهٔ ویدیویی (۳۰ دقیقه) با داکتر',
  'پرداخت ۲٬۵۰۰ افغانی در 2026-10-09',
  'تلفون +93 70 123 4567 شفاخانه',
  'تخفیف 12.5% برای بیمار',
  'کود RX-2231/7 [متخصص قلب]',
  'بیلانس ابتدایی و کلاً الاسلام لا',
  'مُحَمَّدٌ رسول اللّٰه',
  'می‌خواهم کتاب‌ها را',
  'د ښوونځي ګټه، ټول ډېر ړوند ږغ ڼۍ',
  'دواء Paracetamol (500 mg) مرتين يوميًا',
  'الرصيد: ١٬٢٣٤٫٥٠ درهم',
  'خصم −500 AFN از حساب',
  'نسخه #12 «آسپرین» 3x1',
  'Visit with داکتر کریم on 2026-10-09',
  'ساعت 10:30 الی 11:00 ؋۵۰۰',
]
/** What is shaped and drawn of a text in a right-to-left statement. */
export function settingOf(text: string): { text: string; direction: Direction } {
  const direction = directionOfText(text, 'rtl')
  return { text: direction === 'rtl' ? isolateCodes(text) : text, direction }
}

/** A right-to-left page with lines of 14 points, one in each 40 points from the top, that end 95 points from the right. */
export async function linesPage(lines: readonly string[]): Promise<Buffer> {
  const { out, written } = memory()
  const about = { title: 'lines', subject: 'lines', language: 'fa-AF', createdAt: new Date(0) }
  const canvas = createCanvas(fonts, { out, tagged: false, direction: 'rtl', ...about })
  canvas.startPage()
  lines.forEach((given, i) => {
    const { text, direction } = settingOf(given)
    const [line] = layoutText(fonts.inStyle({ language: 'fa-AF', bold: false }), text, { direction })
    canvas.text(line!, 500 - line!.width * 14, 26 + 40 * i, 14)
  })
  await canvas.finish()
  return written()
}

/** Without the marks that keep a text in order for its readers, and those that they add themselves. */
export const withoutControls = (text: string): string => text.replace(/\p{Bidi_Control}/gu, '')

/** What pdftotext reads in a PDF, without the controls of direction. */
export async function textOf(pdf: Buffer, ...argv: string[]): Promise<string> {
  const { pdftotext } = await requirePrograms(['pdftotext'])
  const { stdout } = await execa(pdftotext, [...argv, '-', '-'], { input: pdf })
  return withoutControls(stdout)
}
