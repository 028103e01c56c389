import { type Direction, directionOfText, isolateCodes, TRAIT, traitsOf } from './bidi.ts'
import { type Canvas, PAGE, type Tag } from './canvas.ts'
import type { Fonts, ShapeWord } from './fonts.ts'
import { type Line, layoutText } from './layout.ts'

export const MARGIN = 40
export const WIDTH = PAGE.width - 2 * MARGIN
/** The size of body text, in points. */
export const SIZE = 8.5
// Below it stands the page's number.
const BOTTOM = PAGE.height - MARGIN - 16
const PADDING = 3
// Of Vazirmatn, whose ascender and descender are 1.56 em apart.
const LEADING = 1.6
/** Of a line's first baseline below its top, in ems. */
export const BASELINE = 1.06

/** Text laid out in a column. */
export interface Block {
  lines: Line[]
  /** Distance from the side at which reading starts. */
  start: number
  width: number
  size: number
  /** Set against the column's far side, as figures are. */
  toEnd: boolean
  /** Its structure element's type, with attributes; without one it is an artifact. */
  tag?: string | undefined
  attributes?: string | undefined
  /** The element's parent, where it is not the row. */
  parent?: Tag | undefined
}

export interface BlockOptions extends Partial<Omit<Block, 'lines'>> {
  bold?: boolean
  /** A figure, which is set smaller where it is too wide, and never broken. */
  isFigure?: boolean
  /** Comes again, in this statement or the next, and is laid out once. */
  isWord?: boolean
  /** Otherwise as the text's own letters say. */
  direction?: Direction
}

interface Options {
  language: string
  direction: Direction
  /** No bold, shades and rules. */
  plain: boolean
  /** Draws what a page has at its head and foot. */
  onPage: () => void
  /** Told what is not printed as it was given. */
  onFlaw: (flaw: string, place: string) => void
}

const LINE_SEPARATOR = /\r\n|\u2028/g
const CONTROL = /(?!\n)\p{Cc}/gu
// They would cover the lines above and below.
const STACK = /(?<=\p{M}{6})\p{M}+/gu
const OVERRIDE = /[\u202d\u202e]/g

const REMEMBERED_WORDS = 2_000
/** By language and weight, then by the column's width in ems. */
const laidOut = new WeakMap<Fonts, Map<string, Map<number, Map<string, Line[]>>>>()

/** Prints from top to bottom, over pages, from the side at which the language starts. */
export function createFlow(canvas: Canvas, fonts: Fonts, options: Options) {
  const { language, direction, plain, onPage, onFlaw } = options
  const isRtl = direction === 'rtl'
  const shape = fonts.inStyle({ language, bold: false })
  const shapeBold = fonts.inStyle({ language, bold: true })
  const words = wordsOf(fonts, `${language} regular`)
  const boldWords = wordsOf(fonts, `${language} bold`)
  const rules: number[][] = []
  let y = BOTTOM
  // Whether a new page would be any emptier than this one.
  let begun = true

  function block(text: string, place: string, given: BlockOptions = NO_OPTIONS): Block {
    const { bold = false, direction: forced, isWord = false, start = 0, size = SIZE, toEnd = false } = given
    const { width = WIDTH - start, isFigure = false, tag, attributes, parent } = given
    const isBold = bold && !plain
    const limit = width / size
    const known = isWord ? wordsWithin(isBold ? boldWords : words, limit) : undefined
    let lines = known?.get(text)
    if (lines === undefined) {
      lines = layOut(text, place, isBold ? shapeBold : shape, isFigure ? undefined : limit, forced)
      if (known !== undefined) {
        if (known.size > REMEMBERED_WORDS) known.clear()
        known.set(text, lines)
      }
    }
    const fitting =
      isFigure && lines[0]!.width > limit ? Math.floor((100 * width) / lines[0]!.width) / 100 : size
    return { lines, start, width, size: fitting, toEnd, tag, attributes, parent }
  }

  function layOut(
    text: string,
    place: string,
    shapeWord: ShapeWord,
    width: number | undefined,
    forced: Direction | undefined,
  ): Line[] {
    const clean = cleaned(text, place)
    const textDirection = forced ?? directionOfText(clean, direction)
    const isMixed = textDirection === 'rtl' || (traitsOf(clean) & (TRAIT.rtlLetter | TRAIT.surrogate)) !== 0
    const isolated = isMixed ? isolateCodes(clean) : clean
    const lines = layoutText(shapeWord, isolated, { direction: textDirection, width })
    for (const { pieces } of lines) {
      for (const { parts } of pieces) {
        for (const { missing } of parts) {
          for (const char of missing) onFlaw(`${inWords(char)} is in no font and printed as U+FFFD`, place)
        }
      }
    }
    return lines
  }

  /** Control characters other than the line feed have no looks; overrides and stacks of marks make text read as what it is not. */
  function cleaned(given: string, place: string): string {
    const traits = traitsOf(given)
    const text = traits & TRAIT.mark ? unstacked(given, place) : given
    if (!(traits & (TRAIT.unprintable | TRAIT.surrogate))) return text
    if (text.search(OVERRIDE) >= 0) onFlaw('an override of the direction of text is left out', place)
    if (!text.isWellFormed()) onFlaw('half a surrogate pair is printed as U+FFFD', place)
    return text.toWellFormed().replace(OVERRIDE, '').replace(LINE_SEPARATOR, '\n').replace(CONTROL, ' ')
  }

  function unstacked(text: string, place: string): string {
    const flat = text.replace(STACK, '')
    if (flat !== text) onFlaw('more marks than six on a letter are left out', place)
    return flat
  }

  const leftOf = (start: number, width: number): number =>
    isRtl ? PAGE.width - MARGIN - start - width : MARGIN + start

  function draw({ lines, start, width, size, toEnd }: Block, top: number, from = 0, to = lines.length): void {
    const left = leftOf(start, width)
    for (let i = from; i < Math.min(to, lines.length); i++) {
      const line = lines[i]!
      const room = isRtl === toEnd ? 0 : width - line.width * size
      canvas.text(line, left + room, top + ((i - from) * LEADING + BASELINE) * size, size)
    }
  }

  function newPage(): void {
    drawRules()
    canvas.startPage()
    y = MARGIN
    onPage()
    begun = false
  }

  function heightOf(blocks: readonly Block[], padding = PADDING): number {
    return linesIn(blocks) * leadingOf(blocks) + 2 * padding
  }

  /** Begins a page unless so much still fits on this one, or no page had room for it. */
  function reserve(height: number): void {
    if (y + height > BOTTOM && begun && height <= BOTTOM - MARGIN) newPage()
  }

  /** Prints blocks side by side; those that no page can hold run on over pages. */
  function row(
    parent: Tag | undefined,
    blocks: readonly Block[],
    { tag, shade, padding = PADDING }: { tag?: string; shade?: number; padding?: number } = {},
  ): void {
    reserve(heightOf(blocks, padding))
    const element = tag === undefined ? parent : canvas.open(tag, parent)
    const elements: (Tag | undefined)[] = []
    for (const { tag: type, parent: own = element, attributes } of blocks) {
      elements.push(type === undefined || own === undefined ? undefined : canvas.open(type, own, attributes))
    }
    const line = leadingOf(blocks)
    const all = linesIn(blocks)
    for (let from = 0; from < all; ) {
      const room = Math.floor((BOTTOM - y - 2 * padding) / line)
      if (room < 1) {
        newPage()
        continue
      }
      const to = Math.min(all, from + room)
      const height = (to - from) * line + 2 * padding
      if (shade !== undefined && !plain) {
        canvas.begin(undefined)
        canvas.fill([[leftOf(0, WIDTH), y, WIDTH, height]], shade)
        canvas.end()
      }
      for (let i = 0; i < blocks.length; i++) {
        const one = blocks[i]!
        const isEmpty = one.lines.every(({ pieces }) => pieces.length === 0)
        if (isEmpty || from >= one.lines.length) continue
        canvas.begin(elements[i])
        draw(one, y + padding, from, to)
        canvas.end()
      }
      y += height
      from = to
      begun = true
    }
    for (const one of elements) canvas.close(one)
    if (tag !== undefined) canvas.close(element)
  }

  function gap(height: number): void {
    y += height
  }

  function rule(): void {
    if (!plain) rules.push([leftOf(0, WIDTH), y, WIDTH, 0.4])
  }

  /** All of a page at once: each by itself would be an artifact of its own. */
  function drawRules(): void {
    if (rules.length === 0) return
    canvas.begin(undefined)
    canvas.fill(rules.splice(0), 0.7)
    canvas.end()
  }

  return {
    block,
    row,
    gap,
    rule,
    heightOf,
    reserve,
    newPage,
    leftOf,
    draw,
    /** Draws what is left to be drawn on the last page. */
    finish: drawRules,
    get y() {
      return y
    },
  }
}

const NO_OPTIONS: BlockOptions = {}

function wordsOf(fonts: Fonts, style: string): Map<number, Map<string, Line[]>> {
  const styles = laidOut.get(fonts) ?? new Map<string, Map<number, Map<string, Line[]>>>()
  laidOut.set(fonts, styles)
  const words = styles.get(style) ?? new Map<number, Map<string, Line[]>>()
  styles.set(style, words)
  return words
}

function wordsWithin(words: Map<number, Map<string, Line[]>>, width: number): Map<string, Line[]> {
  let known = words.get(width)
  if (known === undefined) {
    known = new Map()
    words.set(width, known)
  }
  return known
}

function leadingOf(blocks: readonly Block[]): number {
  let size = 0
  for (const block of blocks) size = Math.max(size, block.size)
  return size * LEADING
}

function linesIn(blocks: readonly Block[]): number {
  let count = 0
  for (const { lines } of blocks) count = Math.max(count, lines.length)
  return count
}

const inWords = (char: string): string =>
  `U+${char.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0')}`
