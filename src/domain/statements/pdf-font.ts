import { type Direction, readerMark, type Side } from './bidi.ts'
import type { Face } from './face.ts'
import type { Cluster, Glyph, Shaped } from './fonts.ts'

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
  const codes = new Map<string, string>()
  // Of what most text is made of: a cluster of one character and one glyph where the pen is.
  const plainCodes = new Map<Cluster, string>()
  const texts: string[] = ['']
  const glyphIds: number[] = [0]
  const widths: number[] = [0]
  const perMille = (units: number) => Math.round((units * 1e5) / face.unitsPerEm) / 100
  const markWidth = MARK_WIDTH * face.unitsPerEm

  function codeOf(glyphId: number, text: string, width: number): string {
    const key = `${glyphId} ${width} ${text}`
    let code = codes.get(key)
    if (code === undefined) {
      code = hex4(texts.push(text) - 1)
      glyphIds.push(glyphId)
      widths.push(width)
      codes.set(key, code)
    }
    return code
  }

  function plainCodeOf(cluster: Cluster): string {
    let code = plainCodes.get(cluster)
    if (code === undefined) {
      const [{ id, advance, x, y }, another] = cluster.glyphs as [Glyph, Glyph | undefined]
      const isPlain =
        another === undefined &&
        x === 0 &&
        y === 0 &&
        advance === face.font.glyphHAdvance(id) &&
        cluster.text.length === String.fromCodePoint(cluster.text.codePointAt(0)!).length
      code = isPlain ? codeOf(id, cluster.text, advance) : ''
      plainCodes.set(cluster, code)
    }
    return code
  }

  /** `space`: the width, in font units, of a space that the last code stands for as well. */
  function encode({ clusters, isRtl }: Shaped, space = 0): Encoded {
    const pen = createPen()
    const inks: Ink[] = []
    // Where the next cluster starts.
    let start = 0
    for (let i = 0; i < clusters.length; i++) {
      const cluster = clusters[i]!
      const mark = i === 0 ? '' : readerMark(page, { ...clusters[i - 1]!, isRtl }, { ...cluster, isRtl })
      if (mark !== '') {
        pen.moveTo(start - markWidth)
        pen.show(codeOf(face.blank, mark, markWidth), markWidth)
      }
      const taken = i === clusters.length - 1 ? space : 0
      const plain = taken === 0 ? plainCodeOf(cluster) : ''
      if (plain !== '') pen.show(plain, cluster.advance)
      else encodeCluster(cluster, isRtl, start, taken)
      start += cluster.advance + taken
    }
    return { array: pen.array(), inks }

    function encodeCluster({ text, glyphs, advance }: Cluster, isRtl: boolean, start: number, taken: number) {
      const units = visualUnits(text, isRtl)
      const main = glyphs.reduce((widest, glyph) => (glyph.advance > widest.advance ? glyph : widest))
      let drawn = face.blank
      let x = start
      for (const glyph of glyphs) {
        if (glyph === main && glyph.y === 0) {
          drawn = glyph.id
          pen.moveTo(x + glyph.x)
        } else
          inks.push({ glyphId: glyph.id, x: (x + glyph.x) / face.unitsPerEm, y: glyph.y / face.unitsPerEm })
        x += glyph.advance
      }
      const isWhole = units.length === 1 && drawn !== face.blank
      const width = isWhole ? face.font.glyphHAdvance(drawn) : advance / units.length
      units.forEach((unit, i) => {
        const last = i === units.length - 1 ? taken : 0
        pen.show(
          codeOf(i === 0 ? drawn : face.blank, last > 0 ? `${unit} ` : unit, width + last),
          width + last,
        )
      })
      pen.moveTo(start + advance + taken)
    }
  }

  /** The operand of TJ as it grows, and where it has come to, in font units. */
  function createPen() {
    let array = ''
    let hex = ''
    let at = 0
    const flush = () => {
      if (hex !== '') array += `<${hex}>`
      hex = ''
    }
    return {
      show(code: string, width: number): void {
        hex += code
        at += width
      },
      moveTo(x: number): void {
        const move = perMille(at - x)
        at = x
        if (move === 0) return
        flush()
        array += move
      },
      array(): string {
        flush()
        return array
      },
    }
  }

  /** The mark that must stand between two words, if any. */
  function markBetween(left: Shaped | undefined, right: Shaped | undefined): string {
    const mark = readerMark(page, sideOf(left, -1), sideOf(right, 0))
    return mark === '' ? '' : `${perMille(markWidth)}<${codeOf(face.blank, mark, markWidth)}>`
  }

  function finish(): void {
    const name = `${tag}+${face.name}`
    const file = writer.ref({})
    file.end(face.subset(glyphIds))
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

function sideOf(word: Shaped | undefined, at: 0 | -1): Side | undefined {
  if (word === undefined) return undefined
  return { leaning: word.clusters.at(at)!.leaning, isRtl: word.isRtl }
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
