import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import * as hb from 'harfbuzzjs'
import { openSubsetter, type Subset } from './subset.ts'

/** A font file that was opened once; measures are in its own units. */
export interface Face {
  name: string
  unitsPerEm: number
  ascender: number
  descender: number
  /** Left, bottom, right, top. */
  boundingBox: number[]
  capHeight: number
  glyphCount: number
  /** A glyph that draws nothing: the space. */
  blank: number
  font: hb.Font
  /** Whether every code point has a glyph, or needs none. */
  covers(text: string): boolean
  /** The first character, in order of code points, that the glyph stands for by itself or joined with others. */
  usualText(glyphId: number): string | undefined
  /** The font with these glyphs alone, under the same ids, and `appended` ones behind its last. */
  subset: Subset
}

// HarfBuzz hides these, or puts a space as wide in their place, where a font has no glyph for them.
const NEEDS_NO_GLYPH = /[\p{Default_Ignorable_Code_Point}\p{Zs}]/u
const POSTSCRIPT_NAME = 6

/** Opens a TrueType font of an npm package. */
export function openFace(file: string): Face {
  const bytes = readFileSync(createRequire(import.meta.url).resolve(file))
  const face = new hb.Face(new hb.Blob(bytes))
  const font = new hb.Font(face)
  const covered = new Set(face.collectUnicodes())
  const { ascender, descender } = font.hExtents()
  const usual = usualTexts(font, covered)
  const head = Buffer.from(face.referenceTable('head')!)
  return {
    name: face.getName(POSTSCRIPT_NAME, 'en'),
    unitsPerEm: face.upem,
    ascender,
    descender,
    boundingBox: [36, 38, 40, 42].map((offset) => head.readInt16BE(offset)),
    capHeight: font.getMetricPositionWithFallback(hb.MetricsTag.CAP_HEIGHT),
    glyphCount: Buffer.from(face.referenceTable('maxp')!).readUInt16BE(4),
    blank: font.nominalGlyph(0x20)!,
    font,
    covers(text) {
      for (const char of text) {
        if (!covered.has(char.codePointAt(0)!) && !NEEDS_NO_GLYPH.test(char)) return false
      }
      return true
    },
    usualText: (glyphId) => usual.get(glyphId),
    subset: openSubsetter(bytes),
  }
}

const ZWJ = '\u200d'

/** Every character that is one UTF-16 unit is shaped by itself, and an Arabic letter joined on either side and on both. */
function usualTexts(font: hb.Font, codePoints: Iterable<number>): Map<number, string> {
  const usual = new Map<number, string>()
  const chars = [...codePoints]
    .filter((codePoint) => codePoint < 0x10000)
    .map((one) => String.fromCharCode(one))
  for (const isRtl of [true, false]) {
    const letters = chars.filter((char) => /\p{Script=Arab}/u.test(char) === isRtl)
    const texts = letters.flatMap((char) =>
      isRtl ? [char, char + ZWJ, ZWJ + char + ZWJ, ZWJ + char] : [char],
    )
    const all = texts.join(' ')
    const buffer = new hb.Buffer()
    buffer.addText(all)
    buffer.setDirection(isRtl ? hb.Direction.RTL : hb.Direction.LTR)
    buffer.guessSegmentProperties()
    hb.shape(font, buffer)
    const glyphs = buffer.getGlyphInfos()
    if (isRtl) glyphs.reverse()
    for (const { codepoint: glyphId, cluster } of glyphs) {
      const char = all[cluster]!
      if (glyphId !== 0 && char !== ZWJ && !usual.has(glyphId)) usual.set(glyphId, char)
    }
  }
  return usual
}
