import * as hb from 'harfbuzzjs'
import { type Face, openFace } from './face.ts'
import { kindsOf, leaningOf, type Side } from './readers.ts'

/** A glyph where HarfBuzz puts it, in font units. */
export interface Glyph {
  id: number
  advance: number
  x: number
  y: number
}

/** Glyphs that stand for some characters together: a letter, a letter with its marks, a ligature. */
export interface Cluster extends Side {
  /** Of its characters (readers.ts). */
  kinds: number
  /** From left to right. */
  glyphs: Glyph[]
  /** In font units. */
  advance: number
  /** In every document the same; empty for what only a document can give a code (pdf-font.ts). */
  code: string
}

/** Text of one direction in one font. */
export interface Shaped {
  face: Face
  isRtl: boolean
  /** Of all clusters. */
  kinds: number
  /** From left to right. */
  clusters: Cluster[]
  /** In ems. */
  width: number
  /** Characters that no font has: U+FFFD is drawn for them, and copies as what it stands for. */
  missing: string[]
  /** The codes of all clusters; empty where one has none, or a mark must stand between two (readers.ts). */
  code: string
}

export interface Style {
  /** BCP 47; a font may draw the same letter differently for each. */
  language: string
  bold: boolean
}

/** Shapes one word: its parts from left to right, more than one where it needs two fonts. */
export type ShapeWord = (word: string, isRtl: boolean) => Shaped[]

export type Fonts = ReturnType<typeof openFonts>

const FILES = {
  regular: 'vazirmatn/fonts/ttf/Vazirmatn-Regular.ttf',
  bold: 'vazirmatn/fonts/ttf/Vazirmatn-Bold.ttf',
  // For what the others lack: the afghani's sign, letters of further languages.
  fallback: '@expo-google-fonts/noto-naskh-arabic/400Regular/NotoNaskhArabic_400Regular.ttf',
}
// Statements of one clinic use a few thousand words over and over; more than this is one account's free text.
const CACHED_WORDS = 4_000
const CACHED_LENGTH = 64
// Numbers and codes: no two are the same, and digits of these fonts neither join nor kern. Not both at once: letters and
// signs kern otherwise where Arabic digits make HarfBuzz take the word for Arabic.
const CODE =
  /^(?:(?=.*\d)[!-~]{2,}|[−+-]?[\d\u0660-\u0669\u06f0-\u06f9]+(?:[.,/:\u066b\u066c-][\d\u0660-\u0669\u06f0-\u06f9]+)*)$/
const IN_CODE = /[^\d\u0660-\u0669\u06f0-\u06f9]+|./g
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
  const styles = new Map<string, ShapeWord>()

  /** The shaper of one style, with a memory of its own. */
  function inStyle(style: Style): ShapeWord {
    const key = `${style.language} ${style.bold}`
    let shapeWord = styles.get(key)
    if (shapeWord === undefined) {
      shapeWord = remembering((word, isRtl) => shapeParts(word, isRtl, style))
      styles.set(key, shapeWord)
    }
    return shapeWord
  }

  function shapeParts(word: string, isRtl: boolean, { language, bold: isBold }: Style): Shaped[] {
    const parts = partsOf(word, isBold ? bold : regular)
    const shapedParts = parts.map(({ face, text }) => shape(face, text, isRtl, language))
    return isRtl ? shapedParts.reverse() : shapedParts
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
    const missing = face.covers(text) ? NONE : chars.filter((char) => !face.covers(char))
    buffer.clearContents()
    buffer.setClusterLevel(hb.ClusterLevel.MONOTONE_CHARACTERS)
    buffer.addCodePoints(chars.map((char) => (missing.includes(char) ? REPLACEMENT : char.codePointAt(0)!)))
    buffer.setDirection(isRtl ? hb.Direction.RTL : hb.Direction.LTR)
    buffer.setLanguage(language)
    buffer.guessSegmentProperties()
    hb.shape(face.font, buffer)
    return shapedOf(face, isRtl, clustersOf(buffer, chars, isRtl, face), missing)
  }

  return { faces: [regular, bold, fallback], inStyle }
}

function remembering(shape: ShapeWord): ShapeWord {
  let known = { ltr: new Map<string, Shaped[]>(), rtl: new Map<string, Shaped[]>() }
  const shapeWord: ShapeWord = (word, isRtl) => {
    const words = isRtl ? known.rtl : known.ltr
    let parts = words.get(word)
    if (parts !== undefined) return parts
    if (!isRtl && word.length > 1 && CODE.test(word)) return [joined(word.match(IN_CODE)!, shapeWord)]
    parts = shape(word, isRtl)
    if (word.length > CACHED_LENGTH) return parts
    if (words.size >= CACHED_WORDS) known = { ltr: new Map(), rtl: new Map() }
    words.set(word, parts)
    return parts
  }
  return shapeWord
}

/** Left-to-right parts in one font, as one. */
function joined(texts: readonly string[], shapeWord: ShapeWord): Shaped {
  const clusters: Cluster[] = []
  let face: Face | undefined
  for (const text of texts) {
    const [part] = shapeWord(text, false)
    face ??= part!.face
    for (const cluster of part!.clusters) clusters.push(cluster)
  }
  return shapedOf(face!, false, clusters, NONE)
}

const NONE: string[] = []

function shapedOf(face: Face, isRtl: boolean, clusters: Cluster[], missing: string[]): Shaped {
  let width = 0
  let code = ''
  let kinds = 0
  let isCoded = true
  for (let i = 0; i < clusters.length; i++) {
    const cluster = clusters[i]!
    width += cluster.advance
    code += cluster.code
    kinds |= cluster.kinds
    const isMarked = isRtl && i > 0 && cluster.leaning !== 'rtl' && clusters[i - 1]!.leaning !== 'rtl'
    if (cluster.code === '' || isMarked) isCoded = false
  }
  return { face, isRtl, kinds, clusters, width: width / face.unitsPerEm, missing, code: isCoded ? code : '' }
}

function clustersOf(buffer: hb.Buffer, chars: string[], isRtl: boolean, face: Face): Cluster[] {
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
    const advance = placed.reduce((sum, glyph) => sum + glyph.advance, 0)
    const last = clusters.at(-1)
    if (last !== undefined && JOINERS.test(text)) last.text += text
    else if (last !== undefined && MARKS.test(text)) {
      last.text += text
      last.glyphs = isRtl ? [...placed, ...last.glyphs] : [...last.glyphs, ...placed]
      last.advance += advance
    } else if (text !== '') {
      clusters.push({ text, isRtl, leaning: leaningOf(text), kinds: 0, glyphs: placed, advance, code: '' })
    }
    first = end
  }
  for (const cluster of clusters) {
    cluster.code = codeOf(cluster, face)
    cluster.kinds = kindsOf(cluster.text)
  }
  return isRtl ? clusters.reverse() : clusters
}

/**
 * What stands within a string of a TJ array for a glyph that stands for what it usually does: the glyph's own id. Where the
 * pen must move, by kerning, the string ends and begins anew around the distance.
 */
function codeOf({ text, glyphs, advance }: Cluster, face: Face): string {
  const [{ id, x, y }, another] = glyphs as [Glyph, Glyph | undefined]
  if (another !== undefined || y !== 0 || face.usualText(id) !== text) return ''
  const move = (units: number) => (units === 0 ? '' : `)${perMille(-units, face)}(`)
  return `${move(x)}${codeString(id)}${move(advance - face.font.glyphHAdvance(id) - x)}`
}

/** Font units in thousandths of an em, as PDF has them. */
export const perMille = (units: number, { unitsPerEm }: Face): number =>
  Math.round((units * 1e5) / unitsPerEm) / 100

/** A code as two bytes of a PDF string. */
export const codeString = (code: number): string => byteString(code >> 8) + byteString(code & 0xff)

// Within a string brackets and the escape are escaped, and a carriage return would be read as a line feed.
const byteString = (byte: number): string =>
  byte === 0x0d
    ? '\\r'
    : `${'()\\'.includes(String.fromCharCode(byte)) ? '\\' : ''}${String.fromCharCode(byte)}`
