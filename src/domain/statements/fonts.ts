import * as hb from 'harfbuzzjs'
import { type Face, openFace } from './face.ts'

/** A glyph where HarfBuzz puts it, in font units. */
export interface Glyph {
  id: number
  advance: number
  x: number
  y: number
}

/** Glyphs that stand for some characters together: a letter, a letter with its marks, a ligature. */
export interface Cluster {
  /** In logical order. */
  text: string
  /** From left to right. */
  glyphs: Glyph[]
}

/** Text of one direction in one font. */
export interface Shaped {
  face: Face
  isRtl: boolean
  /** From left to right. */
  clusters: Cluster[]
  /** In ems. */
  width: number
  /** Characters that no font has: U+FFFD is drawn for them, and copies as what it stands for. */
  missing: string[]
}

export interface Style {
  /** BCP 47; a font may draw the same letter differently for each. */
  language: string
  bold?: boolean
}

export type Fonts = ReturnType<typeof openFonts>

const FILES = {
  regular: 'vazirmatn/fonts/ttf/Vazirmatn-Regular.ttf',
  bold: 'vazirmatn/fonts/ttf/Vazirmatn-Bold.ttf',
  // For what the others lack: the afghani's sign, letters of further languages.
  fallback: '@expo-google-fonts/noto-naskh-arabic/400Regular/NotoNaskhArabic_400Regular.ttf',
}
// Statements of one clinic use a few thousand words over and over; more than this is one account's free text.
const CACHED_WORDS = 20_000
const CACHED_LENGTH = 64
const CLUSTER = /\P{M}[\p{M}\p{Default_Ignorable_Code_Point}]*|\p{M}+/gsu
const REPLACEMENT = 0xfffd
// They have done their work when the text is in order, and would do it again where it is copied.
const BIDI_CONTROL = /\p{Bidi_Control}/gu
const MARKS = /^\p{M}+$/u
// They have shaped their neighbours and draw nothing themselves.
const JOINERS = /^[\u200c\u200d]+$/

/**
 * Opens the fonts that statements are set in: once a process, all documents share them and the words shaped so far.
 * Shapes with HarfBuzz, each word in the first font that has all of it. A word is what stands between spaces and has one
 * level: shaped alone it looks as in its line, since nothing joins over a space.
 */
export function openFonts() {
  const regular = openFace(FILES.regular)
  const bold = openFace(FILES.bold)
  const fallback = openFace(FILES.fallback)
  const buffer = new hb.Buffer()
  let cache = new Map<string, Shaped[]>()

  /** @returns the word's parts from left to right, more than one where it needs two fonts. */
  function shapeWord(word: string, level: number, { language, bold: isBold }: Style): Shaped[] {
    const isRtl = (level & 1) === 1
    const key = `${isRtl ? 'r' : 'l'}${isBold ? 'b' : 'n'}${language} ${word}`
    const known = cache.get(key)
    if (known !== undefined) return known
    const main = isBold ? bold : regular
    const parts = partsOf(word, main).map(({ face, text }) => shape(face, text, isRtl, language))
    if (isRtl) parts.reverse()
    if (word.length <= CACHED_LENGTH) {
      if (cache.size >= CACHED_WORDS) cache = new Map()
      cache.set(key, parts)
    }
    return parts
  }

  /** Letters of one word join only within one font, so one font takes all of it where it can. */
  function partsOf(word: string, main: Face): { face: Face; text: string }[] {
    const whole = [main, fallback].find((face) => face.covers(word))
    if (whole !== undefined) return [{ face: whole, text: word }]
    const parts: { face: Face; text: string }[] = []
    for (const [text] of word.matchAll(CLUSTER)) {
      const face = fallback.covers(text) && !main.covers(text) ? fallback : main
      const last = parts.at(-1)
      if (last?.face === face) last.text += text
      else parts.push({ face, text })
    }
    return parts
  }

  function shape(face: Face, text: string, isRtl: boolean, language: string): Shaped {
    const chars = [...text]
    buffer.clearContents()
    buffer.setClusterLevel(hb.ClusterLevel.MONOTONE_CHARACTERS)
    const missing = chars.filter((char) => !face.covers(char))
    buffer.addCodePoints(chars.map((char) => (missing.includes(char) ? REPLACEMENT : char.codePointAt(0)!)))
    buffer.setDirection(isRtl ? hb.Direction.RTL : hb.Direction.LTR)
    buffer.setLanguage(language)
    buffer.guessSegmentProperties()
    hb.shape(face.hbFont, buffer)
    const clusters = clustersOf(buffer, chars, isRtl)
    const width = clusters.reduce((sum, cluster) => sum + advanceOf(cluster), 0) / face.unitsPerEm
    return { face, isRtl, clusters, width, missing }
  }

  return { faces: [regular, bold, fallback], shapeWord }
}

/** In font units. */
export const advanceOf = ({ glyphs }: Cluster): number =>
  glyphs.reduce((sum, { advance }) => sum + advance, 0)

function clustersOf(buffer: hb.Buffer, chars: string[], isRtl: boolean): Cluster[] {
  const glyphs = buffer.getGlyphInfosAndPositions()
  if (isRtl) glyphs.reverse()
  const clusters: Cluster[] = []
  for (let first = 0; first < glyphs.length; ) {
    const at = glyphs[first]!.cluster
    let end = first + 1
    while (glyphs[end]?.cluster === at) end++
    const text = chars.slice(at, glyphs[end]?.cluster).join('').replace(BIDI_CONTROL, '')
    const placed = glyphs.slice(first, end).map(({ codepoint, xAdvance = 0, xOffset = 0, yOffset = 0 }) => ({
      id: codepoint,
      advance: xAdvance,
      x: xOffset,
      y: yOffset,
    }))
    if (isRtl) placed.reverse()
    const last = clusters.at(-1)
    if (last !== undefined && JOINERS.test(text)) last.text += text
    else if (last !== undefined && MARKS.test(text)) {
      last.text += text
      last.glyphs = isRtl ? [...placed, ...last.glyphs] : [...last.glyphs, ...placed]
    } else if (text !== '') clusters.push({ text, glyphs: placed })
    first = end
  }
  return isRtl ? clusters.reverse() : clusters
}
