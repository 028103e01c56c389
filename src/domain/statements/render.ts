import type { Writable } from 'node:stream'
import { encode as encodeQr } from 'uqr'
import { TabibError } from '../../errors.ts'
import { createCanvas, PAGE, type Tag } from './canvas.ts'
import { figuresOf } from './figures.ts'
import { BASELINE, type Block, type BlockOptions, createFlow, MARGIN, SIZE, WIDTH } from './flow.ts'
import type { Fonts } from './fonts.ts'
import { textString } from './pdf-writer.ts'
import type { Statement, StatementLine } from './statement.ts'
import { directionOf, WORDS } from './words.ts'

export interface RenderOptions {
  out: Writable
  /** One font, no logo, no tags, no decoration: for what cannot be rendered in full. Words and figures are the same. */
  basic?: boolean
  /** Whether a structure tree is written, for screen readers: yes, unless it is basic. */
  tagged?: boolean
}

export interface Rendered {
  pages: number
  lines: number
  /** What is not printed as it was given, each with the first place where it stands. */
  flaws: { flaw: string; place: string }[]
}

interface Totals {
  opening: bigint
  charged: bigint
  paid: bigint
  closing: bigint
}

interface Column {
  width: number
  isFigure?: boolean
  /** The same few texts come again and again. */
  isWord?: boolean
}

const TABLE = {
  date: { width: 58, isWord: true },
  description: { width: WIDTH - 344 },
  reference: { width: 84 },
  amount: { width: 82, isFigure: true },
  currency: { width: 34, isWord: true },
  balance: { width: 86, isFigure: true },
} satisfies Record<string, Column>
const COLUMNS = Object.keys(TABLE) as (keyof typeof TABLE)[]
const TOTALS: Column[] = [{ width: WIDTH - 4 * 96 }, ...Array<Column>(4).fill({ width: 96, isFigure: true })]

const SMALL = 7.5
const GUTTER = 3
const SHADE = { heading: 0.88, sum: 0.95 }
// So many of the last lines go with the totals, which so never stand alone on a page.
const KEPT_WITH_TOTALS = 2
// Headings are not the last of a page.
const KEPT_WITH_HEADINGS = 3
// Elements of a body leave memory when it is closed.
const ROWS_PER_BODY = 100
const LOGO = { width: 150, height: 40 }
const QR_SIDE = 80

/**
 * Renders a statement as PDF, page by page: memory does not grow with its lines. The same input gives the same bytes.
 * Does not end `out`.
 *
 * @throws TabibError STATEMENT_INVALID when the ageing is not of the closing balance, or the logo is no image.
 */
export async function renderStatement(
  fonts: Fonts,
  statement: Statement,
  { out, basic = false, tagged = !basic }: RenderOptions,
): Promise<Rendered> {
  const { language, issuer, patient, account, period, payment } = statement
  const words = WORDS[language]
  const figures = figuresOf(language)
  const direction = directionOf(language)
  const flaws = new Map<string, string>()
  const canvas = createCanvas(fonts, {
    out,
    tagged,
    language,
    direction,
    title: `${words.statement} ${statement.number}`,
    subject: account.number,
    createdAt: new Date(`${statement.issuedOn}T00:00:00Z`),
  })
  const flow = createFlow(canvas, fonts, {
    language,
    direction,
    plain: basic,
    onPage,
    onFlaw: (flaw, place) => flaws.has(flaw) || flaws.set(flaw, place),
  })
  const columns = COLUMNS.map((name) => TABLE[name])
  const [headingCells, lineCells] = [cellsOf(columns, HEADING), cellsOf(columns, { tag: 'TD' })]
  const pageCount = canvas.deferred()
  const root = canvas.open('Document', undefined)
  const totals = new Map<string, Totals>()
  let isInTable = false
  /** What each further page begins with. */
  let running: Block[] | undefined

  flow.newPage()
  letterhead()
  parties()
  const lines = await printLines()
  if (payment !== undefined) slip(payment)
  flow.finish()
  canvas.close(root)
  const pages = said(figures.count(canvas.pages), { size: SMALL })
  pageCount.settle(pages.lines[0]!, SMALL, direction === 'rtl' ? 'right' : 'left')
  await canvas.finish()
  return { pages: canvas.pages, lines, flaws: [...flaws].map(([flaw, place]) => ({ flaw, place })) }

  function said(text: string, options: BlockOptions = {}): Block {
    return flow.block(text, 'words', { isWord: true, ...options })
  }

  function onPage(): void {
    const footer = said(words.page(figures.count(canvas.pages)), { size: SMALL })
    const top = PAGE.height - MARGIN - 10
    canvas.begin(undefined)
    flow.draw(footer, top)
    pageCount.draw(flow.leftOf((footer.lines[0]!.width + 0.3) * SMALL, 0), top + BASELINE * SMALL)
    canvas.end()
    if (canvas.pages === 1) return
    running ??= [
      flow.block([issuer.name, statement.number, account.number].map(isolated).join(' · '), 'issuer.name', {
        size: SMALL,
        width: WIDTH - 90,
        direction,
      }),
      said(words.continued, { size: SMALL, start: WIDTH - 90, toEnd: true }),
    ]
    flow.row(undefined, running)
    if (isInTable) flow.row(undefined, headings(), { shade: SHADE.heading })
  }

  function letterhead(): void {
    if (issuer.logo !== undefined && !basic) logo(issuer.logo)
    const sender = canvas.open('Div', root)
    const wide = { tag: 'P', width: WIDTH * 0.58, parent: sender }
    const right = { tag: 'P', start: WIDTH * 0.6, parent: root, toEnd: true }
    const { phone, email, registration } = issuer
    const issued = `${figures.longDay(statement.issuedOn, 'persian')} / ${figures.longDay(statement.issuedOn, 'gregory')}`
    beside(
      [
        flow.block(issuer.name, 'issuer.name', { ...wide, size: 13, bold: true }),
        ...issuer.address.map((line, i) => flow.block(line, `issuer.address[${i}]`, wide)),
        ...fields('issuer', { phone, email, registration }, wide),
      ],
      [
        said(words.statement, { ...right, tag: 'H1', size: 13, bold: true }),
        ...fields('', { number: statement.number, issuedOn: issued }, right),
      ],
    )
    canvas.close(sender)
    flow.gap(6)
    flow.rule()
    flow.gap(6)
  }

  function logo(url: string): void {
    const figure = canvas.open('Figure', root, alternative(issuer.name))
    const bytes = Buffer.from(url.slice(url.indexOf(',') + 1), 'base64')
    const fit: [number, number] = [LOGO.width, LOGO.height]
    const side = direction === 'rtl' ? 'right' : 'left'
    try {
      canvas.begin(figure)
      canvas.image(bytes, flow.leftOf(0, LOGO.width), flow.y, fit, side)
      canvas.end()
    } catch (cause) {
      // Of a JPEG, pdfkit throws strings.
      const why = cause instanceof Error ? cause.message : String(cause)
      throw new TabibError('STATEMENT_INVALID', `issuer.logo: not a PNG or JPEG that can be read: ${why}`, {
        cause,
      })
    }
    canvas.close(figure)
    flow.gap(LOGO.height + 4)
  }

  function parties(): void {
    const about = { patient: canvas.open('Div', root), account: canvas.open('Div', root) }
    const half = { tag: 'P', width: WIDTH * 0.48, parent: about.patient }
    const other = { tag: 'P', start: WIDTH * 0.5, parent: about.account }
    const days = (calendar: 'persian' | 'gregory') =>
      `${figures.longDay(period.from, calendar)} – ${figures.longDay(period.to, calendar)}`
    beside(
      [
        ...fields('patient', { patient: patient.name }, { ...half, bold: true }),
        ...fields('patient', { patientId: patient.id, phone: patient.phone }, half),
        ...patient.address.map((line, i) => flow.block(line, `patient.address[${i}]`, half)),
      ],
      [
        ...fields('account', { account: account.number }, { ...other, bold: true }),
        ...(account.name === undefined ? [] : [flow.block(account.name, 'account.name', other)]),
        said(`${words.period}: ${days('persian')} ${words.solarHijri}`, { ...other, direction }),
        said(`${words.period}: ${days('gregory')} ${words.gregorian}`, { ...other, direction }),
      ],
    )
    canvas.close(about.patient)
    canvas.close(about.account)
    flow.gap(8)
  }

  /** Two columns, whose lines go down the page in step. */
  function beside(one: Block[], other: Block[]): void {
    for (let i = 0; i < Math.max(one.length, other.length); i++) {
      const blocks = [one[i], other[i]].filter((block) => block !== undefined)
      flow.row(undefined, blocks, { padding: 1 })
    }
  }

  /** A line for each value that is given, after its label. */
  function fields(
    place: string,
    values: Partial<Record<Label, string | undefined>>,
    options: BlockOptions,
  ): Block[] {
    return Object.entries(values).flatMap(([label, value]) =>
      value === undefined
        ? []
        : flow.block(
            `${words[label as Label]}: ${isolated(value)}`,
            PLACES[label as Label] ?? `${place}.${label}`,
            { direction, ...options },
          ),
    )
  }

  function headings(): Block[] {
    return inColumns(
      headingCells,
      COLUMNS.map((name) => words[name]),
      () => 'words',
    )
  }

  /** What the cells of a table's row have in common with those above and below. */
  function cellsOf(columns: readonly Column[], options: BlockOptions): BlockOptions[] {
    let start = GUTTER
    return columns.map(({ width, isFigure = false, isWord = false }) => {
      // Units stand under units, whichever way the language is read.
      const toEnd = isFigure && direction === 'ltr'
      const cell = { start, width: width - 2 * GUTTER, toEnd, isFigure, isWord, ...options }
      start += width
      return cell
    })
  }

  function inColumns(
    cells: readonly BlockOptions[],
    texts: readonly string[],
    place: (column: number) => string,
  ): Block[] {
    return cells.map((cell, i) => flow.block(texts[i]!, place(i), cell))
  }

  async function printLines(): Promise<number> {
    const table = canvas.open('Table', root)
    flow.reserve(KEPT_WITH_HEADINGS * flow.heightOf(headings()))
    const head = canvas.open('THead', table)
    flow.row(head, headings(), { tag: 'TR', shade: SHADE.heading })
    canvas.close(head)
    isInTable = true

    let body = canvas.open('TBody', table)
    let printed = 0
    const print = (row: Block[]) => {
      flow.row(body, row, { tag: 'TR' })
      flow.rule()
      if (++printed % ROWS_PER_BODY !== 0) return
      canvas.close(body)
      body = canvas.open('TBody', table)
    }
    const waiting: Block[][] = []
    for (const { currency, amountMinor } of statement.openings) {
      const totalsOf = totalOf(currency)
      totalsOf.opening += BigInt(amountMinor)
      totalsOf.closing = totalsOf.opening
    }
    for (const [currency, { opening }] of totals) {
      const balance = figures.money(opening, currency)
      waiting.push(
        tableRow({ date: period.from, description: words.opening, currency }, '', balance, 'words'),
      )
    }
    let count = 0
    for await (const line of statement.lines) {
      const total = totalOf(line.currency)
      const amount = BigInt(line.amountMinor)
      if (amount < 0n) total.paid -= amount
      else total.charged += amount
      total.closing += amount
      const place = `lines[${count++}]`
      const money = [amount, total.closing].map((minor) => figures.money(minor, line.currency))
      waiting.push(tableRow(line, money[0]!, money[1]!, place))
      while (waiting.length > KEPT_WITH_TOTALS) print(waiting.shift()!)
      if (count % ROWS_PER_BODY === 0) await canvas.drained()
    }
    if (count === 0) {
      waiting.push(tableRow({ date: '', description: words.noLines, currency: '' }, '', '', 'words'))
    }
    const sums = sumTables()
    const rest = [...waiting, ...sums.flat()]
    flow.reserve(rest.reduce((height, row) => height + flow.heightOf(row), 3 * SIZE))
    for (const row of waiting) print(row)
    canvas.close(body)
    canvas.close(table)
    isInTable = false
    for (const rows of sums) {
      flow.gap(SIZE)
      const sumTable = canvas.open('Table', root)
      rows.forEach((row, i) => {
        flow.row(sumTable, row, { tag: 'TR', shade: i === 0 ? SHADE.heading : SHADE.sum })
      })
      canvas.close(sumTable)
    }
    return count
  }

  function totalOf(currency: string): Totals {
    let total = totals.get(currency)
    if (total === undefined) {
      total = { opening: 0n, charged: 0n, paid: 0n, closing: 0n }
      totals.set(currency, total)
    }
    return total
  }

  function tableRow(
    { date, description, reference = '', currency }: Omit<StatementLine, 'amountMinor'>,
    amount: string,
    balance: string,
    place: string,
  ): Block[] {
    const texts = [date && figures.day(date), description, reference, amount, currency, balance]
    return inColumns(lineCells, texts, (i) => `${place}.${COLUMNS[i]}`)
  }

  /** Totals by currency, and for how long they have been owed. */
  function sumTables(): Block[][][] {
    const heading = (texts: string[]) => inColumns(cellsOf(TOTALS, HEADING), texts, () => 'words')
    const sumCells = cellsOf(TOTALS, { tag: 'TD' })
    const row = (currency: string, amounts: bigint[]) => {
      const texts = [currency, ...amounts.map((amount) => figures.money(amount, currency))]
      const cells = inColumns(sumCells, texts, () => 'totals')
      return [{ ...cells[0]!, tag: 'TH', attributes: scope('Row') }, ...cells.slice(1)]
    }
    const sums = [...totals].map(([currency, { opening, charged, paid, closing }]) =>
      row(currency, [opening, charged, paid, closing]),
    )
    const ageing = statement.ageing.map(({ currency, current, over30, over60, over90 }) => {
      const owed = [current, over30, over60, over90].map(BigInt)
      const sum = owed.reduce((all, amount) => all + amount, 0n)
      const { closing } = totalOf(currency)
      if (sum !== closing) {
        throw new TabibError(
          'STATEMENT_INVALID',
          `ageing: ${currency} adds up to ${sum} minor units, its closing balance is ${closing}`,
        )
      }
      return row(currency, owed)
    })
    const { totals: total, opening, charged, paid, closing, ageing: age, days } = words
    return [
      [heading([total, opening, charged, paid, closing]), ...sums],
      [heading([age, ...days]), ...ageing],
    ].filter((rows) => rows.length > 1)
  }

  function slip({ dueOn, reference, code = reference }: NonNullable<Statement['payment']>): void {
    const due = [...totals].filter(([, { closing }]) => closing > 0n)
    const part = { tag: 'P', width: WIDTH - QR_SIDE - 20 }
    const { number } = account
    const rows = [
      [said(words.slip, { ...part, tag: 'H2', size: 11, bold: true })],
      ...fields('payment', { reference, account: number, patient: patient.name }, part).map((one) => [one]),
      ...(dueOn === undefined
        ? []
        : fields(
            'payment',
            { due: `${figures.longDay(dueOn, 'persian')} / ${figures.longDay(dueOn, 'gregory')}` },
            part,
          ).map((one) => [one])),
      ...due.map(([currency, { closing }]) =>
        fields(
          'payment',
          { amountDue: `${figures.money(closing, currency)} ${currency}` },
          { ...part, bold: true },
        ),
      ),
      ...(due.length === 0 ? [[said(words.nothingDue, part)]] : []),
    ]
    flow.reserve(
      Math.max(
        QR_SIDE,
        rows.reduce((sum, row) => sum + flow.heightOf(row, 1), 0),
      ) + 24,
    )
    flow.gap(10)
    flow.rule()
    flow.gap(6)
    const section = canvas.open('Sect', root)
    if (!basic) qrCode(section, code)
    const top = flow.y
    for (const row of rows) flow.row(section, row, { padding: 1 })
    canvas.close(section)
    flow.gap(Math.max(0, top + QR_SIDE - flow.y))
  }

  function qrCode(parent: Tag | undefined, text: string): void {
    const { data, size } = encodeQr(text, { ecc: 'M', border: 0 })
    const module = QR_SIDE / size
    const left = flow.leftOf(WIDTH - QR_SIDE, QR_SIDE)
    const black = data.flatMap((row, y) =>
      row.flatMap((isBlack, x) =>
        isBlack ? [[left + x * module, flow.y + y * module, module, module]] : [],
      ),
    )
    const figure = canvas.open('Figure', parent, alternative(text))
    canvas.begin(figure)
    canvas.fill(black, 0)
    canvas.end()
    canvas.close(figure)
  }
}

/** A table cell's attributes as PDF 1.7, 14.8.5.7 names them. */
const scope = (of: 'Column' | 'Row'): string => `/A<</O/Table/Scope/${of}>>`
const alternative = (text: string): string => `/Alt${textString(text)}`
const HEADING: BlockOptions = {
  bold: true,
  isFigure: false,
  isWord: true,
  tag: 'TH',
  attributes: scope('Column'),
}

type Label = {
  [K in keyof (typeof WORDS)['en']]: (typeof WORDS)['en'][K] extends string ? K : never
}[keyof (typeof WORDS)['en']]

/** Where a value stands in the document that is labelled otherwise. */
const PLACES: Partial<Record<Label, string>> = {
  number: 'number',
  issuedOn: 'issuedOn',
  patient: 'patient.name',
  patientId: 'patient.id',
  account: 'account.number',
  due: 'payment.dueOn',
  amountDue: 'totals',
}

/** Keeps a value's direction apart from its surroundings' (UAX #9, FSI and PDI). */
const isolated = (value: string): string => `\u2068${value}\u2069`
