import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import * as hb from 'harfbuzzjs'
import { openSubsetter } from './subset.ts'

/** A font file that was opened once; measures are in its own units. */
export interface Face {
  name: string
  unitsPerEm: number
  ascender: number
  descender: number
  /** Left, bottom, right, top. */
  boundingBox: number[]
  capHeight: number
  /** A glyph that draws nothing: the space. */
  blank: number
  font: hb.Font
  /** Whether every code point has a glyph, or needs none. */
  covers(text: string): boolean
  /** The font with these glyphs alone, under the same ids. */
  subset(glyphIds: Iterable<number>): Uint8Array
}

// HarfBuzz hides these where a font has no glyph for them.
const NEEDS_NO_GLYPH = /\p{Default_Ignorable_Code_Point}/u
const POSTSCRIPT_NAME = 6

/** Opens a TrueType font of an npm package. */
export function openFace(file: string): Face {
  const bytes = readFileSync(createRequire(import.meta.url).resolve(file))
  const face = new hb.Face(new hb.Blob(bytes))
  const font = new hb.Font(face)
  const covered = new Set(face.collectUnicodes())
  const { ascender, descender } = font.hExtents()
  const head = Buffer.from(face.referenceTable('head')!)
  return {
    name: face.getName(POSTSCRIPT_NAME, 'en'),
    unitsPerEm: face.upem,
    ascender,
    descender,
    boundingBox: [36, 38, 40, 42].map((offset) => head.readInt16BE(offset)),
    capHeight: font.getMetricPositionWithFallback(hb.MetricsTag.CAP_HEIGHT),
    blank: font.nominalGlyph(0x20)!,
    font,
    covers(text) {
      for (const char of text) {
        if (!covered.has(char.codePointAt(0)!) && !NEEDS_NO_GLYPH.test(char)) return false
      }
      return true
    },
    subset: openSubsetter(bytes),
  }
}
