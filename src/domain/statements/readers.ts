import { bidiClassOf, type Direction, reorder } from './bidi.ts'

// What is drawn from left to right is put back in order by whoever reads a PDF, and each program does it in its own way. Here stands
// what they do, so that what is drawn (canvas.ts) can be cut and marked for them.

/** Which way a character makes pdftotext read: its own table of bidirectional classes, in three groups. */
export type Leaning = Direction | 'neutral'

/** The leaning of a text's first character. */
export function leaningOf(text: string): Leaning {
  const char = String.fromCodePoint(text.codePointAt(0)!)
  // Taken for a currency sign as others are, which it was in earlier versions of Unicode.
  if (char === '؋') return 'ltr'
  const type = bidiClassOf(char)
  if (type === 'R' || type === 'AL') return 'rtl'
  return /^(L|EN|AN|ES|ET|CS)$/.test(type) ? 'ltr' : 'neutral'
}

/** What stands beside a boundary within a line. */
export interface Side {
  /** In logical order. */
  text: string
  leaning: Leaning
  isRtl: boolean
}

const [LRM, RLM] = ['\u200e', '\u200f']
/** Whether a mark is what a right-to-left text begins with from the left. */
export const MARK_LAST = /.\p{M}$/su

/**
 * What must stand between two neighbours of a line so that pdftotext, which sees no levels, puts the line back in logical
 * order. On a right-to-left page it goes from the right: letters and neutrals are turned round up to the first
 * left-to-right letter or number, then nothing is up to the next right-to-left letter; spaces and brackets on the border
 * so end up on the wrong side of it. pdf.js leaves these marks out of what it reads.
 */
export function readerMark(page: Direction, left: Side | undefined, right: Side | undefined): string {
  if (page === 'ltr') {
    if (right?.isRtl === true && left?.isRtl !== true && MARK_LAST.test(right.text)) return RLM
    if (left === undefined || right === undefined || left.isRtl === right.isRtl) return ''
    if (right.leaning !== 'neutral') return ''
    return left.isRtl ? LRM : RLM
  }
  if (left === undefined || (right !== undefined && !left.isRtl && !right.isRtl)) return ''
  const rightRuns = right !== undefined && (!right.isRtl || right.leaning === 'ltr')
  if (rightRuns && left.leaning !== 'rtl') return RLM
  return !left.isRtl && left.leaning === 'neutral' ? LRM : ''
}

/** What PDFium takes a character for: it cuts a line wherever this changes. */
export const KIND = { letter: 1, number: 2, neutral: 4, rtlLetter: 8 } as const

/** The kinds (KIND) of a text's characters, joined. */
export function kindsOf(text: string): number {
  let kinds = 0
  for (const char of text) {
    const type = bidiClassOf(char)
    if (type === 'L') kinds |= KIND.letter
    else if (type === 'R' || type === 'AL') kinds |= KIND.rtlLetter
    else if (/^(AN|EN|NSM|CS|ES|ET|BN)$/.test(type)) kinds |= KIND.number
    else kinds |= KIND.neutral
  }
  return kinds
}

/** A part of a line from left to right, all of one direction. */
interface Part {
  isRtl: boolean
  kinds: number
  clusters: readonly { text: string }[]
}

/** How a part of a line is to be drawn. */
export interface Reading {
  /** PDFium must not read `rtl` on one line with `ltr`; undefined goes with either. */
  line: Direction | undefined
  /** pdf.js must read it by itself. */
  isAlone: boolean
}

interface LineReading {
  /** Of all parts, where they have none of their own. */
  of: Reading
  readings?: Reading[]
  /** In which order the parts are to be drawn if not as they stand: that in which pdf.js reads what it must read by itself. */
  order?: number[]
}

const [ANY, LTR, RTL]: LineReading[] = [undefined, 'ltr', 'rtl'].map((line) => ({
  of: { line: line as Direction | undefined, isAlone: false },
}))

/**
 * How the parts of a line are read. PDFium takes a line with as many right-to-left stretches as left-to-right ones to be right-to-left
 * as a whole, and then turns the kinds of a code round among each other: RX-1 becomes -1RX. pdf.js makes 1-RX of it, and 09-10-2026 of
 * 2026-10-09, unless it is read alone; what is joined to such a code without a space, as a percent sign or brackets are, is then read
 * alone as well, before or after it.
 * @param starts Where each part stands in logical order.
 * @param spaces Which parts are spaces.
 */
export function readingsOf(
  parts: readonly Part[],
  starts: readonly number[],
  spaces: readonly boolean[],
): LineReading {
  let all = 0
  let words = 0
  let isMixed = false
  for (const { isRtl, kinds } of parts) {
    all |= kinds
    if (!isRtl) isMixed = true
    else if (kinds & KIND.rtlLetter) words++
  }
  if (!(all & KIND.rtlLetter)) return isOne(all) && all !== KIND.letter ? ANY! : LTR!
  if (!isMixed) return RTL!
  const runs = leftToRightRuns(parts)
  const isOutnumbered = runs.filter(({ kinds }) => kinds & KIND.letter).length > words
  const joined = joinedTo(runs, spaces)
  const isAlone =
    (joined.length > 0 || runs.some(({ length }) => length > 1)) &&
    isMisreadByPdfJs(parts, starts, [...runs, ...joined])
  const readings = parts.map(() => RTL!.of)
  for (const { from, to, kinds } of runs) {
    const isApart = !isOne(kinds) || (isOutnumbered && (kinds & KIND.letter) !== 0)
    readings.fill({ line: isApart ? 'ltr' : 'rtl', isAlone }, from, to)
  }
  if (!isAlone || joined.length === 0) return { of: RTL!.of, readings }
  const order = parts.map((_, i) => i)
  for (const { from, to } of joined) {
    for (let i = from; i < to; i++) readings[i] = { line: readings[i]!.line, isAlone }
    order.splice(from, to - from, ...logical(parts, starts, { from, to }))
  }
  return { of: RTL!.of, readings, order }
}

/** What stands between two spaces and is made of whole runs and right-to-left parts. */
function joinedTo(runs: readonly Run[], spaces: readonly boolean[]): Span[] {
  const joined: Span[] = []
  for (const run of runs) {
    if (run.from < (joined.at(-1)?.to ?? 0) || spaces.slice(run.from, run.to).includes(true)) continue
    const before = spaces.lastIndexOf(true, run.from) + 1
    const after = spaces.indexOf(true, run.to)
    const span = { from: before, to: after === -1 ? spaces.length : after }
    const isWhole = runs.every(
      ({ from, to }) => to <= span.from || from >= span.to || (from >= span.from && to <= span.to),
    )
    if (isWhole && run.to - run.from < span.to - span.from) joined.push(span)
  }
  return joined
}

function logical(parts: readonly Part[], starts: readonly number[], { from, to }: Span): number[] {
  const indexes: number[] = []
  for (let i = from; i < to; i++) indexes.push(i)
  // Parts of one piece are in several fonts.
  return indexes.sort((a, b) => starts[a]! - starts[b]! || (parts[a]!.isRtl ? b - a : a - b))
}

const isOne = (kinds: number): boolean => (kinds & (kinds - 1)) === 0

interface Span {
  from: number
  to: number
}

interface Run extends Span {
  kinds: number
  /** In clusters. */
  length: number
}

function leftToRightRuns(parts: readonly Part[]): Run[] {
  const runs: Run[] = []
  for (const [i, { isRtl, kinds, clusters }] of parts.entries()) {
    const last = runs.at(-1)
    if (isRtl) continue
    if (last?.to === i) {
      last.to = i + 1
      last.kinds |= kinds
      last.length += clusters.length
    } else runs.push({ from: i, to: i + 1, kinds, length: clusters.length })
  }
  return runs
}

/** Whether pdf.js, given the whole line, brings the characters of one of some spans out of order, or drops one. */
function isMisreadByPdfJs(
  parts: readonly Part[],
  starts: readonly number[],
  spans: readonly Span[],
): boolean {
  const from: number[] = []
  let text = ''
  for (const { isRtl, clusters } of parts) {
    from.push(text.length)
    for (const cluster of clusters) text += isRtl ? [...cluster.text].reverse().join('') : cluster.text
  }
  from.push(text.length)
  const order = orderByPdfJs(text)
  const places = new Int32Array(order.length)
  for (let place = 0; place < order.length; place++) places[order[place]!] = place
  return spans.some((span) => {
    let next: number | undefined
    for (const part of logical(parts, starts, span)) {
      const [first, end, isRtl] = [from[part]!, from[part + 1]!, parts[part]!.isRtl]
      for (let i = first; i < end; i++) {
        const index = isRtl ? end - 1 - (i - first) : i
        const place = places[index]!
        if ((next !== undefined && place !== next) || text[index] === '<' || text[index] === '>') return true
        next = place + 1
      }
    }
    return false
  })
}

/** The order in which pdf.js (src/core/bidi.js) takes the characters of a text that it finds from left to right. */
function orderByPdfJs(text: string): number[] {
  const types = Array.from({ length: text.length }, (_, i) => typeForPdfJs(text, i))
  const { length } = types
  const isStrong = types.filter((type) => type === 'R' || type === 'AL' || type === 'AN').length
  const base = isStrong / length < 0.3 && length > 4 ? 0 : 1
  const edge = base === 0 ? 'L' : 'R'
  for (let i = 0, last = edge; i < length; i++) {
    if (types[i] === 'NSM') types[i] = last
    else last = types[i]!
  }
  for (let i = 0, last = edge; i < length; i++) {
    const type = types[i]!
    if (type === 'EN' && last === 'AL') types[i] = 'AN'
    else if (type === 'L' || type === 'R' || type === 'AL') last = type
  }
  for (let i = 0; i < length; i++) if (types[i] === 'AL') types[i] = 'R'
  for (let i = 1; i < length - 1; i++) {
    const [before, type, after] = [types[i - 1]!, types[i], types[i + 1]]
    const joins =
      (type === 'ES' && before === 'EN') || (type === 'CS' && (before === 'EN' || before === 'AN'))
    if (joins && before === after) types[i] = before
  }
  for (let i = 0; i < length; i++) {
    if (types[i] !== 'EN') continue
    for (let j = i - 1; types[j] === 'ET'; j--) types[j] = 'EN'
    for (let j = i + 1; types[j] === 'ET'; j++) types[j] = 'EN'
  }
  for (let i = 0, last = edge; i < length; i++) {
    const type = types[i]!
    if (type === 'EN' && last === 'L') types[i] = 'L'
    else if (type === 'L' || type === 'R') last = type
    else if (type === 'WS' || type === 'ES' || type === 'ET' || type === 'CS') types[i] = 'ON'
  }
  for (let i = 0; i < length; i++) {
    if (types[i] !== 'ON') continue
    let end = i + 1
    while (types[end] === 'ON') end++
    const before = (types[i - 1] ?? edge) === 'L' ? 'L' : 'R'
    // It looks one character too far.
    const after = (types[end + 1] ?? edge) === 'L' ? 'L' : 'R'
    types.fill(before === after ? before : edge, i, end)
    i = end - 1
  }
  const levels = types.map((type, index) => {
    const rise = base === 0 ? (type === 'R' ? 1 : type === 'L' ? 0 : 2) : type === 'R' ? 0 : 1
    return { index, level: base + (type === 'BN' ? 0 : rise) }
  })
  return reorder(levels).map(({ index }) => index)
}

/** Beyond Latin-1 and Arabic it knows no classes. */
function typeForPdfJs(text: string, index: number): string {
  const unit = text.charCodeAt(index)
  if (unit > 0xff && (unit < 0x590 || (unit > 0x8ac && unit < 0xfb50))) return 'L'
  return bidiClassOf(text.charAt(index))
}
