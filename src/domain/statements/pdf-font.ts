import { type Direction, readerMark, type Side } from './bidi.ts'
import type { Face } from './face.ts'
import { type Cluster, hex4, perMille, type Shaped } from './fonts.ts'

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

/** What a code draws, says, and how wide it is in font units. */
interface Code {
  code: number
  glyphId: number
  text: string
  width: number
}

/** Text as the operand of TJ, without the brackets. */
export interface Encoded {
  array: string
  inks: Ink[]
}

/**
 * A font as one document embeds it. A glyph that stands for its usual character has its own id for a code; each other
 * triple of a glyph, what it stands for and its width gets a code when it first comes, so that ToUnicode is exact though
 * one glyph may stand for several texts.
 *
 * Readers take the codes of a line from left to right and turn right-to-left text round, so no code may stand for two
 * characters: those of a ligature, or of a letter with its marks, share its width, and the glyph itself is drawn by the
 * leftmost. Codes without width would not do: pdftotext takes what overlaps for printed twice.
 */
export function embedFont(writer: Writer, face: Face, tag: string, page: Direction) {
  const reference = writer.ref({})
  const given = new Map<string, string>()
  const isUsed = new Uint8Array(face.glyphCount)
  const used: Code[] = []
  const milli = (units: number) => perMille(units, face)
  const markWidth = MARK_WIDTH * face.unitsPerEm

  function codeOf(glyphId: number, text: string, width: number): string {
    const key = `${glyphId} ${width} ${text}`
    let hex = given.get(key)
    if (hex === undefined) {
      const code = face.glyphCount + given.size
      used.push({ code, glyphId, text, width })
      hex = hex4(code)
      given.set(key, hex)
    }
    return hex
  }

  function note({ glyphs, text }: Cluster): void {
    const { id } = glyphs[0]!
    if (isUsed[id]) return
    isUsed[id] = 1
    used.push({ code: id, glyphId: id, text, width: face.font.glyphHAdvance(id) })
  }

  /** `space`: the width, in font units, of a space that the last code stands for as well. */
  function encode(word: Shaped, space = 0): Encoded {
    const { clusters, isRtl } = word
    if (word.code !== '' && space === 0 && !(isRtl && hasMarks(clusters))) {
      for (const cluster of clusters) note(cluster)
      return { array: `<${word.code}>`, inks: NO_INKS }
    }
    const pen = createPen()
    const inks: Ink[] = []
    // Where the next cluster starts.
    let start = 0
    clusters.forEach((cluster, i) => {
      const mark = i === 0 ? '' : readerMark(page, { ...clusters[i - 1]!, isRtl }, { ...cluster, isRtl })
      if (mark !== '') {
        pen.moveTo(start - markWidth)
        pen.show(codeOf(face.blank, mark, markWidth), markWidth)
      }
      const taken = i === clusters.length - 1 ? space : 0
      if (cluster.code !== '' && taken === 0) {
        note(cluster)
        pen.show(cluster.code, cluster.advance)
      } else encodeCluster(cluster, start, taken)
      start += cluster.advance + taken
    })
    return { array: pen.array(), inks }

    function encodeCluster({ text, glyphs, advance }: Cluster, left: number, taken: number): void {
      const units = visualUnits(text, isRtl)
      const main = glyphs.reduce((widest, glyph) => (glyph.advance > widest.advance ? glyph : widest))
      let drawn = face.blank
      let x = left
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
      pen.moveTo(left + advance + taken)
    }
  }

  /** Whether a mark must stand somewhere within a right-to-left word: after what pdftotext takes for a number. */
  function hasMarks(clusters: readonly Cluster[]): boolean {
    for (let i = 1; i < clusters.length; i++) {
      if (clusters[i]!.leaning !== 'rtl' && clusters[i - 1]!.leaning !== 'rtl') return true
    }
    return false
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
        const move = milli(at - x)
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
    return mark === '' ? '' : `${milli(markWidth)}<${codeOf(face.blank, mark, markWidth)}>`
  }

  function finish(): void {
    const name = `${tag}+${face.name}`
    used.sort((a, b) => a.code - b.code)
    const file = writer.ref({})
    file.end(face.subset(used.map(({ glyphId }) => glyphId)))
    const map = writer.ref({})
    map.end(glyphIdsByCode())
    const unicode = writer.ref({})
    unicode.end(toUnicode(used))
    const descriptor = writer.ref({
      Type: 'FontDescriptor',
      FontName: name,
      Flags: 4,
      FontBBox: face.boundingBox.map(milli),
      ItalicAngle: 0,
      Ascent: milli(face.ascender),
      Descent: milli(face.descender),
      CapHeight: milli(face.capHeight),
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
      W: used.flatMap(({ code, width }) => [code, [milli(width)]]),
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

  function glyphIdsByCode(): Uint8Array {
    const bytes = Buffer.alloc(2 * (face.glyphCount + given.size))
    for (const { code, glyphId } of used) bytes.writeUInt16BE(glyphId, 2 * code)
    return bytes
  }

  return { reference, encode, markBetween, finish }
}

export type EmbeddedFont = ReturnType<typeof embedFont>

const NO_INKS: Ink[] = []
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

function toUnicode(codes: readonly Code[]): string {
  const lines = codes.map(({ code, text }) => `<${hex4(code)}> <${[...utf16(text)].map(hex4).join('')}>`)
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
