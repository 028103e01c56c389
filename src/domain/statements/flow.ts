import { type Direction, directionOfText, isolateCodes } from './bidi.ts'
import { type Canvas, PAGE, type Tag } from './canvas.ts'
import type { Fonts } from './fonts.ts'
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
const BASELINE = 1.06

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
  tag?: string
  attributes?: object
  /** The element's parent, where it is not the row. */
  parent?: Tag | undefined
}

export interface BlockOptions extends Partial<Omit<Block, 'lines'>> {
  bold?: boolean
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

// Control characters other than the line feed have no looks; an override makes text read as what it is not.
const UNPRINTABLE = /(?!\n)[\p{Cc}\p{Cs}\u2028\u202d\u202e]/u
const LINE_SEPARATOR = /\r\n|\u2028/g
const CONTROL = /(?!\n)\p{Cc}/gu
const OVERRIDE = /[\u202d\u202e]/g

const REMEMBERED_WORDS = 2_000
const laidOut = new WeakMap<Fonts, Map<string, Map<string, Line[]>>>()

/** Prints from top to bottom, over pages, from the side at which the language starts. */
export function createFlow(canvas: Canvas, fonts: Fonts, options: Options) {
  const { language, direction, plain, onPage, onFlaw } = options
  const isRtl = direction === 'rtl'
  const shape = fonts.inStyle({ language, bold: false })
  const shapeBold = fonts.inStyle({ language, bold: true })
  let words = laidOut.get(fonts)
  if (words === undefined) {
    words = new Map()
    laidOut.set(fonts, words)
  }
  const known = words.get(language) ?? new Map<string, Line[]>()
  words.set(language, known)
  const rules: number[][] = []
  let y = BOTTOM
  // Whether a new page would be any emptier than this one.
  let begun = true

  function block(text: string, place: string, given: BlockOptions = {}): Block {
    const { bold = false, direction: forced, isWord = false, ...rest } = given
    const block = { start: 0, width: WIDTH - (rest.start ?? 0), size: SIZE, toEnd: false, ...rest }
    const isBold = bold && !plain
    const key = isWord ? `${isBold} ${block.width / block.size} ${text}` : ''
    let lines = isWord ? known.get(key) : undefined
    if (lines !== undefined) return { ...block, lines }
    const clean = cleaned(text, place)
    const textDirection = forced ?? directionOfText(clean, direction)
    lines = layoutText(isBold ? shapeBold : shape, textDirection === 'rtl' ? isolateCodes(clean) : clean, {
      direction: textDirection,
      width: block.width / block.size,
    })
    if (isWord) {
      if (known.size > REMEMBERED_WORDS) known.clear()
      known.set(key, lines)
    }
    for (const { pieces } of lines) {
      for (const { parts } of pieces) {
        for (const { missing } of parts) {
          for (const char of missing) onFlaw(`${inWords(char)} is in no font and printed as U+FFFD`, place)
        }
      }
    }
    return { ...block, lines }
  }

  function cleaned(text: string, place: string): string {
    if (!UNPRINTABLE.test(text)) return text
    if (text.search(OVERRIDE) >= 0) onFlaw('an override of the direction of text is left out', place)
    if (!text.isWellFormed()) onFlaw('half a surrogate pair is printed as U+FFFD', place)
    return text.toWellFormed().replace(OVERRIDE, '').replace(LINE_SEPARATOR, '\n').replace(CONTROL, ' ')
  }

  const leftOf = (start: number, width: number): number =>
    isRtl ? PAGE.width - MARGIN - start - width : MARGIN + start

  function draw({ lines, start, width, size, toEnd }: Block, top: number, from = 0, to = lines.length): void {
    lines.slice(from, to).forEach((line, i) => {
      const room = isRtl === toEnd ? 0 : width - line.width * size
      canvas.text(line, leftOf(start, width) + room, top + (i * LEADING + BASELINE) * size, size)
    })
  }

  function newPage(): void {
    drawRules()
    canvas.startPage()
    y = MARGIN
    onPage()
    begun = false
  }

  const leading = (blocks: readonly Block[]): number => Math.max(...blocks.map(({ size }) => size)) * LEADING
  const linesOf = (blocks: readonly Block[]): number => Math.max(...blocks.map(({ lines }) => lines.length))

  function heightOf(blocks: readonly Block[], padding = PADDING): number {
    return linesOf(blocks) * leading(blocks) + 2 * padding
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
    const elements = blocks.map(({ tag: type, parent: own = element, attributes }) =>
      type === undefined || own === undefined ? undefined : canvas.open(type, own, attributes),
    )
    const line = leading(blocks)
    const all = linesOf(blocks)
    for (let from = 0; from < all; ) {
      const room = Math.floor((BOTTOM - y - 2 * padding) / line)
      if (room < 1) {
        newPage()
        continue
      }
      const to = Math.min(all, from + room)
      const height = (to - from) * line + 2 * padding
      if (shade !== undefined && !plain) {
        canvas.content(undefined, () => canvas.fill([[leftOf(0, WIDTH), y, WIDTH, height]], shade))
      }
      blocks.forEach((one, i) => {
        const isEmpty = one.lines.every(({ pieces }) => pieces.length === 0)
        if (!isEmpty && from < one.lines.length) {
          canvas.content(elements[i], () => draw(one, y + padding, from, to))
        }
      })
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
    if (rules.length > 0) canvas.content(undefined, () => canvas.fill(rules.splice(0), 0.7))
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

const inWords = (char: string): string =>
  `U+${char.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0')}`
