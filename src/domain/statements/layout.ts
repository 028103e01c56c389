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
  width?: number
}

const PARAGRAPH_END = /\r\n|[\n\r\u2029]/
// White space and isolates, which UAX #9 L1 takes to the paragraph's level at the end of a line.
const SPACES = '\\t\\v \\f\\u1680\\u2000-\\u200a\\u2028\\u205f\\u3000\\u2066-\\u2069'
const TOKEN = new RegExp(`[${SPACES}]+|[^${SPACES}]+`, 'g')
const SPACE = new RegExp(`^[${SPACES}]`)
// A word without end is cut, so that no step needs memory for all of it.
const LONGEST_WORD = 500
const NO_BREAKS: ReadonlySet<number> = new Set()

/**
 * Lays text out in lines: levels over each whole paragraph (UAX #9), breaks on logical text (UAX #14), then each line's
 * own order (L1, L2); words are shaped in their direction, in which HarfBuzz mirrors them (L4).
 */
export function layoutText(shapeWord: ShapeWord, text: string, setting: Setting): Line[] {
  if (!PARAGRAPH_END.test(text)) return layoutParagraph(shapeWord, text, setting)
  return text.split(PARAGRAPH_END).flatMap((paragraph) => layoutParagraph(shapeWord, paragraph, setting))
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
function cut(shapeWord: ShapeWord, text: string, levels: Uint8Array, breaks: ReadonlySet<number>): Piece[] {
  const pieces: Piece[] = []
  for (const [token] of text.matchAll(TOKEN)) {
    let start = pieces.at(-1)?.end ?? 0
    const tokenEnd = start + token.length
    for (let end = start + 1; end <= tokenEnd; end++) {
      const ends =
        end === tokenEnd ||
        levels[end] !== levels[start] ||
        breaks.has(end) ||
        (end - start >= LONGEST_WORD && !isLowSurrogate(text.charCodeAt(end)))
      if (!ends) continue
      pieces.push(pieceOf(shapeWord, text, start, end, levels[start]!))
      start = end
    }
  }
  return pieces
}

function pieceOf(shapeWord: ShapeWord, text: string, start: number, end: number, level: number): Piece {
  const word = text.slice(start, end)
  const parts = shapeWord(word, (level & 1) === 1)
  let width = 0
  for (const part of parts) width += part.width
  return { start, end, level, isSpace: SPACE.test(word), parts, width }
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
  const { start, end, level, width } = piece
  if (width <= limit) return [piece]
  const characters = [...GRAPHEMES.segment(text.slice(start, end))]
  if (characters.length < 2) return [piece]
  const middle = start + characters[characters.length >> 1]!.index
  const halves = [
    pieceOf(shapeWord, text, start, middle, level),
    pieceOf(shapeWord, text, middle, end, level),
  ]
  return halves.flatMap((half) => narrowed(shapeWord, text, half, limit))
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
