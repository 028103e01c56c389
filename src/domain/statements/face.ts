import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import * as fontkit from 'fontkit'
import * as hb from 'harfbuzzjs'

/** A font file that was opened once: HarfBuzz shapes with it, fontkit cuts what a document embeds of it. */
export interface Face {
  name: string
  unitsPerEm: number
  ascender: number
  descender: number
  boundingBox: number[]
  capHeight: number
  hbFont: hb.Font
  /** Whether every code point has a glyph, or needs none. */
  covers(text: string): boolean
  createSubset(): { includeGlyph(id: number): number; encode(): Uint8Array }
}

// HarfBuzz hides these where a font has no glyph for them.
const NEEDS_NO_GLYPH = /\p{Default_Ignorable_Code_Point}/u

/** Opens a font file of an npm package. */
export function openFace(file: string): Face {
  const bytes = readFileSync(createRequire(import.meta.url).resolve(file))
  const face = new hb.Face(new hb.Blob(bytes))
  const font = fontkit.create(bytes) as fontkit.Font
  const covered = new Set(face.collectUnicodes())
  return {
    name: font.postscriptName,
    unitsPerEm: face.upem,
    ascender: font.ascent,
    descender: font.descent,
    boundingBox: [font.bbox.minX, font.bbox.minY, font.bbox.maxX, font.bbox.maxY],
    capHeight: font.capHeight,
    hbFont: new hb.Font(face),
    covers(text) {
      for (const char of text) {
        if (!covered.has(char.codePointAt(0)!) && !NEEDS_NO_GLYPH.test(char)) return false
      }
      return true
    },
    createSubset: () => font.createSubset() as unknown as ReturnType<Face['createSubset']>,
  }
}
