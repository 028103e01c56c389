// @ts-expect-error: it brings no types.
import LineBreaker from 'linebreak'
import { type Direction, reorder, resolveLevels } from './bidi.ts'
import type { Shaped, ShapeWord } from './fonts.ts'

/** What stands between two spaces, or the spaces; of one level. */
export interface Piece {
  start: number
  end: number
  level: number
  isSpace: boolean
  /** From left to right. */
  parts: Shaped[]
  /** In ems. */
  width: number
}

/** A laid out line: pieces from left to right; the spaces at its end are there and draw nothing. */
export interface Line {
  pieces: Piece[]
  /** In ems, without the spaces at its end. */
  width: number
}

export interface Setting {
  direction: Direction | 'auto'
  /** What a line may hold, in ems; without it a paragraph is one line. */
  width?: number | undefined
}

const PARAGRAPH_END = /\r\n|[\n\r\u2029]/
// bidi-js takes time with the square of a paragraph's isolates: one of several pages is laid out as several.
const LONGEST_PARAGRAPH = 10_000
const STRETCH = /.{1,10000}(?:\s|$)|.{10000}/gsu
// A word without end is cut, so that no step needs memory for all of it.
const LONGEST_WORD = 120
const NO_BREAKS: ReadonlySet<number> = new Set()

/**
 * Lays text out in lines: levels over each whole paragraph (UAX #9), breaks on logical text (UAX #14), then each line's
 * own order (L1, L2); words are shaped in their direction, in which HarfBuzz mirrors them (L4).
 */
export function layoutText(shapeWord: ShapeWord, text: string, setting: Setting): Line[] {
  if (text.length <= LONGEST_PARAGRAPH && !PARAGRAPH_END.test(text)) {
    return layoutParagraph(shapeWord, text, setting)
  }
  return text
    .split(PARAGRAPH_END)
    .flatMap((paragraph) => paragraph.match(STRETCH) ?? [''])
    .flatMap((stretch) => layoutParagraph(shapeWord, stretch, setting))
}

function layoutParagraph(shapeWord: ShapeWord, text: string, { direction, width: limit }: Setting): Line[] {
  const { levels, base } = resolveLevels(text, direction)
  const pieces = cut(shapeWord, text, levels, NO_BREAKS)
  if (limit === undefined || widthOf(pieces) <= limit) return [lineOf(pieces, base)]

  const breaks = breaksIn(text)
  const lines: Piece[][] = []
  let line: Piece[] = []
  let filled = 0
  const add = (segment: Piece[], width: number) => {
    if (line.length > 0 && filled + widthOf(segment) > limit) {
      lines.push(line)
      line = []
      filled = 0
    }
    line.push(...segment)
    filled += width
  }
  for (const segment of segments(cut(shapeWord, text, levels, breaks), breaks)) {
    if (widthOf(segment) <= limit) add(segment, fullWidthOf(segment))
    else
      for (const piece of segment)
        for (const one of narrowed(shapeWord, text, piece, limit)) add([one], one.width)
  }
  return [...lines, line].map((one) => lineOf(one, base))
}

/** Cuts a paragraph at spaces, changes of level, and where a line may end. */
function cut(
  shapeWord: ShapeWord,
  text: string,
  levels: Uint8Array | number,
  breaks: ReadonlySet<number>,
): Piece[] {
  const pieces: Piece[] = []
  const [one, each] = typeof levels === 'number' ? [levels] : [0, levels]
  let start = 0
  let isSpace = text !== '' && isSpaceAt(text, 0)
  for (let end = 1; end <= text.length; end++) {
    const nextIsSpace = end < text.length && isSpaceAt(text, end)
    const ends =
      end === text.length ||
      nextIsSpace !== isSpace ||
      (each !== undefined && each[end] !== each[start]) ||
      (breaks.size > 0 && breaks.has(end)) ||
      (end - start >= LONGEST_WORD && !isLowSurrogate(text.charCodeAt(end)))
    if (!ends) continue
    pieces.push(
      pieceOf(shapeWord, text, { start, end, level: each === undefined ? one : each[start]!, isSpace }),
    )
    start = end
    isSpace = nextIsSpace
  }
  return pieces
}

/** White space and isolates, which UAX #9 L1 takes to the paragraph's level at the end of a line. */
function isSpaceAt(text: string, index: number): boolean {
  const unit = text.charCodeAt(index)
  if (unit < 0x1680) return unit === 0x20 || unit === 9 || unit === 11 || unit === 12
  return (unit >= 0x2000 && unit <= 0x200a) || (unit >= 0x2066 && unit <= 0x2069) || OTHER_SPACES.has(unit)
}
const OTHER_SPACES = new Set([0x1680, 0x2028, 0x205f, 0x3000])

type Cut = Pick<Piece, 'start' | 'end' | 'level' | 'isSpace'>

function pieceOf(shapeWord: ShapeWord, text: string, { start, end, level, isSpace }: Cut): Piece {
  const parts = shapeWord(text.slice(start, end), (level & 1) === 1)
  let width = 0
  for (const part of parts) width += part.width
  return { start, end, level, isSpace, parts, width }
}

const isLowSurrogate = (unit: number): boolean => unit >= 0xdc00 && unit <= 0xdfff

/** UAX #14: where a line may end. */
function breaksIn(text: string): Set<number> {
  const breaks = new Set<number>()
  const breaker: { nextBreak(): { position: number } | null } = new LineBreaker(text)
  for (let next = breaker.nextBreak(); next !== null; next = breaker.nextBreak()) breaks.add(next.position)
  return breaks
}

function segments(pieces: Piece[], breaks: ReadonlySet<number>): Piece[][] {
  const found: Piece[][] = []
  let segment: Piece[] = []
  for (const piece of pieces) {
    segment.push(piece)
    if (!breaks.has(piece.end)) continue
    found.push(segment)
    segment = []
  }
  return segment.length > 0 ? [...found, segment] : found
}

/** A piece too wide for any line, in pieces of whole characters that are not. */
function narrowed(shapeWord: ShapeWord, text: string, piece: Piece, limit: number): Piece[] {
  const { start, end, width } = piece
  if (width <= limit) return [piece]
  const characters = [...GRAPHEMES.segment(text.slice(start, end))]
  if (characters.length < 2) return [piece]
  const middle = start + characters[characters.length >> 1]!.index
  return [
    { ...piece, end: middle },
    { ...piece, start: middle },
  ].flatMap((half) => narrowed(shapeWord, text, pieceOf(shapeWord, text, half), limit))
}

const GRAPHEMES = new Intl.Segmenter(undefined, { granularity: 'grapheme' })

function fullWidthOf(pieces: readonly Piece[]): number {
  let width = 0
  for (const piece of pieces) width += piece.width
  return width
}

/** Without the spaces at the end. */
function widthOf(pieces: readonly Piece[]): number {
  let end = pieces.length
  while (end > 0 && pieces[end - 1]!.isSpace) end--
  return fullWidthOf(end === pieces.length ? pieces : pieces.slice(0, end))
}

function lineOf(pieces: Piece[], base: number): Line {
  for (let i = pieces.length - 1; i >= 0 && pieces[i]!.isSpace; i--) {
    pieces[i] = { ...pieces[i]!, level: base, parts: [], width: 0 }
  }
  return { pieces: reorder(pieces), width: fullWidthOf(pieces) }
}
