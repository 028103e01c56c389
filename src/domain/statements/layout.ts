// @ts-expect-error: it brings no types.
import LineBreaker from 'linebreak'
import { type Direction, reorder, resolveLevels } from './bidi.ts'
import type { Fonts, Shaped, Style } from './fonts.ts'

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

export interface Setting extends Style {
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

/**
 * Lays text out in lines: levels over each whole paragraph (UAX #9), breaks on logical text (UAX #14), then each line's
 * own order (L1, L2); words are shaped in their direction, in which HarfBuzz mirrors them (L4).
 */
export function layoutText(fonts: Fonts, text: string, setting: Setting): Line[] {
  return text.split(PARAGRAPH_END).flatMap((paragraph) => layoutParagraph(fonts, paragraph, setting))
}

function layoutParagraph(fonts: Fonts, text: string, setting: Setting): Line[] {
  const { levels, base } = resolveLevels(text, setting.direction)
  const limit = setting.width ?? Number.POSITIVE_INFINITY
  const shapedPieces = (breaks: ReadonlySet<number>) =>
    cut(text, levels, breaks).map((piece) => shaped(fonts, text, piece, setting))
  const pieces = shapedPieces(new Set())
  if (widthOf(pieces) <= limit) return [lineOf(pieces, base)]

  const breaks = breaksIn(text)
  const lines: Piece[][] = [[]]
  for (const segment of segments(shapedPieces(breaks), breaks)) {
    const line = lines.at(-1)!
    if (widthOf([...line, ...segment]) <= limit) line.push(...segment)
    else if (widthOf(segment) <= limit) lines.push(segment)
    else {
      for (const piece of segment.flatMap((one) => narrowed(fonts, text, one, setting, limit))) {
        if (widthOf([...lines.at(-1)!, piece]) <= limit) lines.at(-1)!.push(piece)
        else lines.push([piece])
      }
    }
  }
  return lines.filter((line) => line.length > 0).map((line) => lineOf(line, base))
}

type Cut = Pick<Piece, 'start' | 'end' | 'level' | 'isSpace'>

function cut(text: string, levels: Uint8Array, breaks: ReadonlySet<number>): Cut[] {
  const pieces: Cut[] = []
  for (const { 0: token, index } of text.matchAll(TOKEN)) {
    const isSpace = SPACE.test(token)
    let start = index
    for (let end = index + 1; end <= index + token.length; end++) {
      const ends =
        end === index + token.length ||
        levels[end] !== levels[start] ||
        breaks.has(end) ||
        (end - start >= LONGEST_WORD && !isLowSurrogate(text.charCodeAt(end)))
      if (!ends) continue
      pieces.push({ start, end, level: levels[start]!, isSpace })
      start = end
    }
  }
  return pieces
}

const isLowSurrogate = (unit: number): boolean => unit >= 0xdc00 && unit <= 0xdfff

function shaped(fonts: Fonts, text: string, piece: Cut, style: Style): Piece {
  const parts = fonts.shapeWord(text.slice(piece.start, piece.end), piece.level, style)
  return { ...piece, parts, width: parts.reduce((sum, part) => sum + part.width, 0) }
}

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
function narrowed(fonts: Fonts, text: string, piece: Piece, style: Style, limit: number): Piece[] {
  if (piece.width <= limit) return [piece]
  const characters = [...GRAPHEMES.segment(text.slice(piece.start, piece.end))]
  if (characters.length < 2) return [piece]
  const middle = piece.start + characters[characters.length >> 1]!.index
  return [
    { ...piece, end: middle },
    { ...piece, start: middle },
  ].flatMap((half) => narrowed(fonts, text, shaped(fonts, text, half, style), style, limit))
}

const GRAPHEMES = new Intl.Segmenter(undefined, { granularity: 'grapheme' })

function widthOf(pieces: readonly Piece[]): number {
  let width = 0
  let visible = 0
  for (const piece of pieces) {
    width += piece.width
    if (!piece.isSpace) visible = width
  }
  return visible
}

function lineOf(pieces: readonly Piece[], base: number): Line {
  const last = pieces.findLastIndex(({ isSpace }) => !isSpace)
  const line = pieces.map((piece, i) => (i > last ? { ...piece, level: base, parts: [], width: 0 } : piece))
  return { pieces: reorder(line), width: widthOf(pieces) }
}
