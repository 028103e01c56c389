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
  isSpace: boolean
  /** Places it among the others in logical order. */
  start: number
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
  readings: Reading[]
  /** In which order the parts are to be drawn, which is that in which pdf.js reads what it must read by itself. */
  order: number[]
}

/**
 * How the parts of a line are read. PDFium takes a line with as many right-to-left stretches as left-to-right ones to be right-to-left
 * as a whole, and then turns the kinds of a code round among each other: RX-1 becomes -1RX. pdf.js makes 1-RX of it, and 09-10-2026 of
 * 2026-10-09, unless it is read alone; what is joined to such a code without a space, as a percent sign or brackets are, is then read
 * alone as well, before or after it.
 */
export function readingsOf(parts: readonly Part[]): LineReading {
  const order = parts.map((_, i) => i)
  let all = 0
  let words = 0
  for (const { isRtl, kinds } of parts) {
    all |= kinds
    if (isRtl && kinds & KIND.rtlLetter) words++
  }
  if (!(all & KIND.rtlLetter)) {
    const line = isOne(all) && all !== KIND.letter ? undefined : 'ltr'
    return { readings: parts.map(() => ({ line, isAlone: false })), order }
  }
  const readings = parts.map((): Reading => ({ line: 'rtl', isAlone: false }))
  const runs = leftToRightRuns(parts)
  if (runs.length === 0) return { readings, order }
  const isOutnumbered = runs.filter(({ kinds }) => kinds & KIND.letter).length > words
  const joined = joinedTo(runs, parts)
  const isAlone =
    (joined.length > 0 || runs.some(({ length }) => length > 1)) &&
    isMisreadByPdfJs(parts, [...runs, ...joined])
  for (const { from, to, kinds } of runs) {
    const isApart = !isOne(kinds) || (isOutnumbered && (kinds & KIND.letter) !== 0)
    for (let i = from; i < to; i++) readings[i] = { line: isApart ? 'ltr' : 'rtl', isAlone }
  }
  if (!isAlone) return { readings, order }
  for (const { from, to } of joined) {
    for (let i = from; i < to; i++) readings[i] = { ...readings[i]!, isAlone }
    order.splice(from, to - from, ...logical(parts, from, to))
  }
  return { readings, order }
}

/** What stands between two spaces and is made of whole runs and right-to-left parts. */
function joinedTo(runs: readonly Run[], parts: readonly Part[]): Span[] {
  const joined: Span[] = []
  for (let from = 0, to = 0; from < parts.length; from = to + 1) {
    to = from
    while (to < parts.length && !parts[to]!.isSpace) to++
    const within = runs.filter((run) => run.from < to && run.to > from)
    const isWhole = within.length > 0 && within.every((run) => run.from >= from && run.to <= to)
    if (isWhole && within[0]!.to - within[0]!.from < to - from) joined.push({ from, to })
  }
  return joined
}

function logical(parts: readonly Part[], from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, i) => from + i).sort((a, b) => {
    const [one, other] = [parts[a]!, parts[b]!]
    // Parts of one piece, in several fonts.
    return one.start - other.start || (one.isRtl ? b - a : a - b)
  })
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
function isMisreadByPdfJs(parts: readonly Part[], spans: readonly Span[]): boolean {
  const indexes: number[][] = []
  let text = ''
  for (const { isRtl, clusters } of parts) {
    const start = text.length
    for (const cluster of clusters) text += isRtl ? [...cluster.text].reverse().join('') : cluster.text
    const own = Array.from({ length: text.length - start }, (_, i) => start + i)
    indexes.push(isRtl ? own.reverse() : own)
  }
  const places: number[] = []
  for (const [place, index] of orderByPdfJs(text).entries()) places[index] = place
  return spans.some(({ from, to }) => {
    const inOrder = logical(parts, from, to).flatMap((part) => indexes[part]!)
    const first = places[inOrder[0]!]!
    return inOrder.some((index, i) => places[index] !== first + i || '<>'.includes(text[index]!))
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
