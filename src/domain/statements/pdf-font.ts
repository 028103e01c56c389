import { type Direction, type Edge, readerMark } from './bidi.ts'
import type { Face } from './face.ts'
import { advanceOf, type Shaped } from './fonts.ts'

/** The part of a PDF writer that fonts need: pdfkit's document has it. */
interface Writer {
  ref(data: object): PdfReference
}
export interface PdfReference {
  data: Record<string, unknown>
  end(chunk?: Uint8Array | string): void
}

/** A glyph that is drawn and stands for no text, where its text has been given to its neighbour: in ems from the start. */
export interface Ink {
  glyphId: number
  x: number
  y: number
}

/** Text as the operand of TJ, without the brackets. */
export interface Encoded {
  array: string
  inks: Ink[]
}

/**
 * A font as one document embeds it. Each triple of a glyph, what it stands for and its width has a code of its own, so
 * that ToUnicode is exact though one glyph may stand for several texts.
 *
 * Readers take the codes of a line from left to right and turn right-to-left text round, so no code may stand for two
 * characters: those of a ligature, or of a letter with its marks, share its width, and the glyph itself is drawn by the
 * leftmost. Codes without width would not do: pdftotext takes what overlaps for printed twice.
 */
export function embedFont(writer: Writer, face: Face, tag: string, page: Direction) {
  const reference = writer.ref({})
  const subset = face.createSubset()
  const codes = new Map<string, number>()
  const texts: string[] = ['']
  const glyphIds: number[] = [0]
  const widths: number[] = [0]
  const perMille = (units: number) => Math.round((units * 1e5) / face.unitsPerEm) / 100
  const blank = face.hbFont.nominalGlyph(0x20) ?? 0

  function codeOf(glyphId: number, text: string, width: number): string {
    const key = `${glyphId} ${width} ${text}`
    let code = codes.get(key)
    if (code === undefined) {
      code = texts.push(text) - 1
      glyphIds.push(subset.includeGlyph(glyphId))
      widths.push(width)
      codes.set(key, code)
    }
    return hex4(code)
  }

  /** `space`: the width, in font units, of a space that the last code stands for as well. */
  function encode({ clusters, isRtl }: Shaped, space = 0): Encoded {
    const inks: Ink[] = []
    let array = ''
    let hex = ''
    // In font units: where the next cluster starts, and where the writer's pen is.
    let start = 0
    let pen = 0
    const separate = (one: Edge, other: Edge) => {
      const char = readerMark(page, one, other)
      if (char === '') return
      moveTo(pen - MARK_WIDTH * face.unitsPerEm)
      show(blank, char, MARK_WIDTH * face.unitsPerEm)
    }
    const show = (glyphId: number, text: string, width: number) => {
      hex += codeOf(glyphId, text, width)
      pen += width
    }
    const moveTo = (x: number) => {
      const move = perMille(pen - x)
      pen = x
      if (move === 0) return
      array += `${hex === '' ? '' : `<${hex}>`}${move}`
      hex = ''
    }
    let left: Edge | undefined
    for (const cluster of clusters) {
      const { glyphs, text } = cluster
      const here = { char: text, isRtl }
      if (left !== undefined) separate(left, here)
      left = here
      const end = start + advanceOf(cluster)
      const units = visualUnits(text, isRtl)
      const main = glyphs.reduce((widest, glyph) => (glyph.advance > widest.advance ? glyph : widest))
      let drawn = blank
      let x = start
      for (const glyph of glyphs) {
        if (glyph === main && glyph.y === 0) {
          drawn = glyph.id
          moveTo(x + glyph.x)
        } else
          inks.push({ glyphId: glyph.id, x: (x + glyph.x) / face.unitsPerEm, y: glyph.y / face.unitsPerEm })
        x += glyph.advance
      }
      const isPlain = units.length === 1 && drawn !== blank
      const width = isPlain ? face.hbFont.glyphHAdvance(drawn) : (end - start) / units.length
      units.forEach((unit, i) => {
        const isLast = space > 0 && cluster === clusters.at(-1) && i === units.length - 1
        show(i === 0 ? drawn : blank, isLast ? `${unit} ` : unit, isLast ? width + space : width)
      })
      moveTo(cluster === clusters.at(-1) ? end + space : end)
      start = end
    }
    return { array: hex === '' ? array : `${array}<${hex}>`, inks }
  }

  /** The mark that must stand between two words, if any. */
  function markBetween(left: Shaped | undefined, right: Shaped | undefined): string {
    const char = readerMark(page, edgeOf(left, -1), edgeOf(right, 0))
    if (char === '') return ''
    const width = MARK_WIDTH * face.unitsPerEm
    return `${perMille(width)}<${codeOf(blank, char, width)}>`
  }

  function finish(): void {
    const name = `${tag}+${face.name}`
    const file = writer.ref({})
    file.end(subset.encode())
    const map = writer.ref({})
    map.end(Uint8Array.from(glyphIds.flatMap((id) => [id >> 8, id & 0xff])))
    const unicode = writer.ref({})
    unicode.end(toUnicode(texts))
    const descriptor = writer.ref({
      Type: 'FontDescriptor',
      FontName: name,
      Flags: 4,
      FontBBox: face.boundingBox.map(perMille),
      ItalicAngle: 0,
      Ascent: perMille(face.ascender),
      Descent: perMille(face.descender),
      CapHeight: perMille(face.capHeight),
      StemV: 0,
      FontFile2: file,
    })
    descriptor.end()
    const descendant = writer.ref({
      Type: 'Font',
      Subtype: 'CIDFontType2',
      BaseFont: name,
      CIDSystemInfo: { Registry: new String('Adobe'), Ordering: new String('Identity'), Supplement: 0 },
      FontDescriptor: descriptor,
      W: [0, widths.map(perMille)],
      CIDToGIDMap: map,
    })
    descendant.end()
    Object.assign(reference.data, {
      Type: 'Font',
      Subtype: 'Type0',
      BaseFont: name,
      Encoding: 'Identity-H',
      DescendantFonts: [descendant],
      ToUnicode: unicode,
    })
    reference.end()
  }

  return { reference, encode, markBetween, finish }
}

export type EmbeddedFont = ReturnType<typeof embedFont>

// In ems: pdftotext takes what starts within a tenth of the character before for printed twice.
const MARK_WIDTH = 0.11

function edgeOf(word: Shaped | undefined, at: 0 | -1): Edge | undefined {
  const cluster = word?.clusters.at(at)
  return word === undefined || cluster === undefined ? undefined : { char: cluster.text, isRtl: word.isRtl }
}

/** What the codes of a cluster stand for, from left to right. A joiner goes with its letter: pdf.js drops it alone. */
function visualUnits(text: string, isRtl: boolean): string[] {
  if (!isRtl) return [...text]
  const units = text.match(/.[\u200c\u200d]*/gsu) ?? []
  return units.reverse().map((unit) => (unit.length === 1 ? unit : [...unit].reverse().join('')))
}

function toUnicode(texts: readonly string[]): string {
  const lines = texts
    .map((text, code) => ({ text, code }))
    .filter(({ text }) => text !== '')
    .map(({ text, code }) => `<${hex4(code)}> <${[...utf16(text)].map(hex4).join('')}>`)
  const blocks: string[] = []
  // A block may hold 100 lines.
  for (let i = 0; i < lines.length; i += 100) {
    const block = lines.slice(i, i + 100)
    blocks.push(`${block.length} beginbfchar\n${block.join('\n')}\nendbfchar`)
  }
  return `/CIDInit /ProcSet findresource begin
12 dict begin
begincmap
/CIDSystemInfo << /Registry (Adobe) /Ordering (UCS) /Supplement 0 >> def
/CMapName /Adobe-Identity-UCS def
/CMapType 2 def
1 begincodespacerange
<0000> <ffff>
endcodespacerange
${blocks.join('\n')}
endcmap
CMapName currentdict /CMap defineresource pop
end
end`
}

function* utf16(text: string): Generator<number> {
  for (let i = 0; i < text.length; i++) yield text.charCodeAt(i)
}

const hex4 = (unit: number): string => unit.toString(16).padStart(4, '0')
