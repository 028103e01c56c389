import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'
import { Writable } from 'node:stream'
import PDFDocument from 'pdfkit'
import { figuresOf } from '../../src/domain/statements/figures.ts'
import { openFonts } from '../../src/domain/statements/fonts.ts'
import { renderStatement } from '../../src/domain/statements/render.ts'
import type { Statement, StatementLine } from '../../src/domain/statements/statement.ts'
import { findProgram } from '../../src/sandbox/servers/find.ts'

// A child of bench/statements.ts: engine, count of statements, lines of each, folder of the peers' packages.
const [, , engine = '', statements = '1', lines = '40', folder = ''] = process.argv
const FONT = createRequire(import.meta.url).resolve('vazirmatn/fonts/ttf/Vazirmatn-Regular.ttf')
const peer = createRequire(resolve(folder, 'package.json'))

const WORDS = [
  ...['مشاورهٔ', 'ویدیویی', 'داکتر', 'متخصص', 'قلب', 'شفاخانه', 'مرکزی', 'هرات', 'دوا', 'قرص', 'شربت'],
  ...['لابراتوار', 'معاینه', 'خون', 'عکس', 'ریه', 'نسخه', 'تجدید', 'ماهوار', 'پرداخت', 'نقدی', 'بیمه'],
]
let state = 1
const below = (limit: number) => {
  state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff
  return (state >> 8) % limit
}

function* linesOf(count: number): Generator<StatementLine> {
  for (let i = 0; i < count; i++) {
    const words = Array.from({ length: 3 + below(4) }, () => WORDS[below(WORDS.length)])
    yield {
      date: `2026-10-${String(1 + below(30)).padStart(2, '0')}`,
      description: `${words.join(' ')}${['', ` (${below(90)})`, ` Amoxicillin ${below(900)} mg`][i % 3]}`,
      reference: `RX-${below(9_999)}`,
      currency: 'AFN',
      amountMinor: below(9_999_999) - 2_000_000,
    }
  }
}

const statementOf = (lines: Statement['lines']): Statement => ({
  language: 'fa-AF',
  number: 'S-2026-10-000123',
  issuedOn: '2026-11-01',
  period: { from: '2026-10-01', to: '2026-10-31' },
  issuer: { name: 'شفاخانهٔ هرات مرکز', address: ['جادهٔ مخابرات', 'هرات'], phone: '+93 40 222 3344' },
  patient: { name: 'محمد کریم احمدی', id: 'P-004512', address: [] },
  account: { number: 'AC-77-1203' },
  openings: [{ currency: 'AFN', amountMinor: 150_000 }],
  lines,
  ageing: [],
})

const figures = figuresOf('fa-AF')
/** The cells of each line, as the peers print them. */
const rowsOf = (lines: Iterable<StatementLine>): string[][] => {
  let balance = 150_000n
  return [...lines].map(({ date, description, reference = '', currency, amountMinor }) => {
    balance += BigInt(amountMinor)
    const [amount, after] = [BigInt(amountMinor), balance].map((minor) => figures.money(minor, currency))
    return [figures.day(date), description, reference, amount!, currency, after!]
  })
}
const HEAD = ['تاریخ', 'شرح', 'کود', 'مبلغ', 'اسعار', 'بیلانس']
const ABOUT = [
  'شفاخانهٔ هرات مرکز',
  'جادهٔ مخابرات',
  'محمد کریم احمدی',
  'AC-77-1203',
  'دوره: ۹ میزان – ۹ عقرب ۱۴۰۵',
]

type Engine = (lines: Iterable<StatementLine>) => Promise<unknown>
const sink = () => new Writable({ write: (_chunk, _encoding, done) => done() })

const ours = (tagged: boolean) => (): Engine => {
  const fonts = openFonts()
  return (lines) => renderStatement(fonts, statementOf(lines), { out: sink(), tagged })
}

const ENGINES: Record<string, () => Engine | Promise<Engine>> = {
  untagged: ours(false),
  tagged: ours(true),

  // The floor: what pdfkit costs where nothing is shaped or ordered. The same lines in Latin letters, in Helvetica.
  plain: () => (lines) =>
    new Promise((resolve) => {
      const doc = new PDFDocument({ size: 'A4', margin: 40 })
      doc.on('data', () => {})
      doc.on('end', resolve)
      doc.font('Helvetica').fontSize(13).text('Herat Central Hospital', 40, 40).fontSize(8.5)
      for (let i = 0; i < 16; i++)
        doc.text('Account AC-77-1203, October 2026', i % 2 ? 300 : 40, 60 + (i >> 1) * 14)
      const columns = [58, 171, 84, 82, 34, 86]
      let [y, balance] = [240, 150_000]
      for (const { date, reference = '', currency, amountMinor } of lines) {
        balance += amountMinor as number
        const money = [amountMinor as number, balance].map((minor) => (minor / 100).toFixed(2))
        const texts = [
          date,
          'Consultation by video, cardiology (30)',
          reference,
          money[0]!,
          currency,
          money[1]!,
        ]
        let x = 40
        texts.forEach((text, i) => {
          const width = columns[i]! - 6
          doc.text(text, x, y, { width, height: 12, align: i === 3 || i === 5 ? 'right' : 'left' })
          x += columns[i]!
        })
        doc
          .moveTo(40, y + 16)
          .lineTo(555, y + 16)
          .stroke()
        y += 19.6
        if (y > 770) {
          doc.addPage()
          y = 60
        }
      }
      doc.end()
    }),

  pdfmake: () => {
    const pdfmake = peer('pdfmake')
    const fonts = { V: { normal: FONT, bold: FONT, italics: FONT, bolditalics: FONT } }
    pdfmake.setFonts?.(fonts)
    return async (lines) => {
      const body = [HEAD, ...rowsOf(lines)].map((row) => [...row].reverse())
      const content = [...ABOUT, { table: { headerRows: 1, widths: [80, 30, 76, 78, '*', 52], body } }]
      const definition = { content, defaultStyle: { font: 'V', fontSize: 8.5, alignment: 'right' } }
      await pdfmake.createPdf(definition).getBuffer()
    }
  },

  'react-pdf': async () => {
    const { Document, Font, Page, renderToBuffer, Text, View } = await import(
      peer.resolve('@react-pdf/renderer')
    )
    const { createElement: h } = peer('react')
    Font.register({ family: 'V', src: FONT })
    const widths = [58, 171, 84, 82, 34, 86]
    return async (lines) => {
      const cell = (text: string, i: number) =>
        h(Text, { key: i, style: { width: widths[i], textAlign: 'right' } }, text)
      const rows = [HEAD, ...rowsOf(lines)].map((row, i) =>
        h(View, { key: i, style: { flexDirection: 'row-reverse', padding: 3 }, wrap: false }, row.map(cell)),
      )
      const about = ABOUT.map((text) => h(Text, { key: text }, text))
      const page = h(
        Page,
        { size: 'A4', style: { fontFamily: 'V', fontSize: 8.5, padding: 40 } },
        about,
        rows,
      )
      await renderToBuffer(h(Document, null, page))
    }
  },

  typst: () => {
    const { NodeCompiler } = peer('@myriaddreamin/typst-ts-node-compiler')
    const compiler = NodeCompiler.create({ fontArgs: [{ fontPaths: [join(FONT, '..')] }] })
    return async (lines) => {
      const cells = [HEAD, ...rowsOf(lines)].flat().map((text) => JSON.stringify(text))
      compiler.pdf({
        mainFileContent: `#set page(paper: "a4", margin: 40pt)
#set text(font: "Vazirmatn", size: 8.5pt, lang: "fa", dir: rtl)
${ABOUT.join('\n\n')}
#table(columns: (58pt, 1fr, 84pt, 82pt, 34pt, 86pt), ${cells.map((cell) => `text(${cell})`).join(', ')})`,
      })
      compiler.evictCache(0)
    }
  },

  chromium: async () => {
    const browser = await peer('puppeteer-core').launch({
      executablePath: findProgram('chromium'),
      args: ['--no-sandbox', '--disable-gpu'],
    })
    process.once('exit', () => browser.process()?.kill('SIGKILL'))
    const page = await browser.newPage()
    const file = join(folder, `${process.pid}.html`)
    return async (lines) => {
      const row = (cells: string[]) => `<tr>${cells.map((cell) => `<td>${cell}</td>`).join('')}</tr>`
      writeFileSync(
        file,
        `<!doctype html><meta charset="utf-8"><html lang="fa" dir="rtl"><style>
        @font-face { font-family: V; src: url("file://${FONT}") }
        @page { size: A4; margin: 40pt } body { font: 8.5pt V } td { padding: 3pt; border-bottom: 0.4pt solid }
        </style>${ABOUT.map((text) => `<p>${text}</p>`).join('')}<table><thead>${row(HEAD)}</thead>${rowsOf(lines).map(row).join('')}</table>`,
      )
      await page.goto(`file://${file}`)
      await page.pdf({ preferCSSPageSize: true, tagged: true })
    }
  },
}

/** CPU seconds of this process and all that it started and that still run. */
function cpuS(): number {
  const parents = new Map<number, { parent: number; ticks: number }>()
  for (const name of readdirSync('/proc').filter((entry) => /^\d+$/.test(entry))) {
    try {
      const fields = readFileSync(`/proc/${name}/stat`, 'utf8')
        .replace(/^.*\) /, '')
        .split(' ')
      const ticks = fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0)
      parents.set(Number(name), { parent: Number(fields[1]), ticks })
    } catch {
      // It has ended meanwhile.
    }
  }
  const isOurs = (pid: number): boolean =>
    pid === process.pid || (pid > 1 && isOurs(parents.get(pid)?.parent ?? 0))
  const ticks = [...parents].filter(([pid]) => isOurs(pid)).reduce((sum, [, one]) => sum + one.ticks, 0)
  return ticks / 100
}

const render = await ENGINES[engine]!()
// Each is measured as it runs for hours: compiled, with its caches filled.
const warmUp = Number(lines) > 1_000 ? 0 : 50
for (let i = 0; i < warmUp; i++) await render(linesOf(Number(lines)))
const before = cpuS()
for (let i = 0; i < Number(statements); i++) await render(linesOf(Number(lines)))
const used = cpuS() - before
process.stdout.write(
  JSON.stringify({ cpuS: used / Number(statements), rssMib: process.resourceUsage().maxRSS / 1024 }),
)
process.exit(0)
