import type { Direction } from './bidi.ts'
import type { Face } from './face.ts'
import { type Cluster, codeString, perMille, type Shaped } from './fonts.ts'
import type { PdfWriter } from './pdf-writer.ts'
import { readerMark } from './readers.ts'

/** A glyph that is drawn and stands for no text, where its text has been given to its neighbour: in ems from the start. */
export interface Ink {
  glyphId: number
  x: number
  y: number
}

/** What a code says, and how wide it is in font units. */
interface Code {
  code: number
  text: string
  width: number
}

export type EmbeddedFont = ReturnType<typeof embedFont>

// A text of more characters that no font has copies as U+FFFD from there on.
const LAST_CODE = 0xffff
// In ems: pdftotext takes what starts within a tenth of the character before for printed twice.
const MARK_WIDTH = 0.11

/**
 * A font as one document embeds it. A glyph that stands for its usual character has its own id for a code; each other
 * triple of a glyph, what it stands for and its width gets a code when it first comes, under which the embedded font has
 * the glyph again, so that ToUnicode is exact though one glyph may stand for several texts.
 *
 * Readers take the codes of a line from left to right and turn right-to-left text round, so no code may stand for two
 * characters: those of a ligature, or of a letter with its marks, share its width, and the glyph itself is drawn by the
 * leftmost. Codes without width would not do: pdftotext takes what overlaps for printed twice.
 *
 * Text is returned as what stands within a string of a TJ array; where the pen moves, the string ends and begins anew.
 */
export function embedFont(writer: PdfWriter, face: Face, tag: string, page: Direction) {
  const reference = writer.ref()
  const isUsed = new Uint8Array(face.glyphCount)
  const given = new Map<string, string>()
  const further: Code[] = []
  const appended: number[] = []
  const markWidth = MARK_WIDTH * face.unitsPerEm
  const marks = new Map<string, string>()

  function codeOf(glyphId: number, text: string, width: number): string {
    const key = `${glyphId} ${width} ${text}`
    let string = given.get(key)
    if (string === undefined) {
      const code = face.glyphCount + appended.length
      if (code > LAST_CODE) {
        isUsed[glyphId] = 1
        return codeString(glyphId)
      }
      appended.push(glyphId)
      further.push({ code, text, width })
      string = codeString(code)
      given.set(key, string)
    }
    return string
  }

  /**
   * `space`: the width, in font units, of a space that the last code stands for as well. Glyphs to be drawn beside the text
   * are added to `inks`.
   */
  function encode(word: Shaped, space: number, inks: Ink[]): string {
    const { clusters, isRtl } = word
    if (word.code !== '' && space === 0) {
      for (const { glyphs } of clusters) isUsed[glyphs[0]!.id] = 1
      return word.code
    }
    const pen = createPen(face)
    // Where the next cluster starts.
    let start = 0
    for (let i = 0; i < clusters.length; i++) {
      const cluster = clusters[i]!
      const mark = i === 0 ? '' : readerMark(page, clusters[i - 1], cluster)
      if (mark !== '') {
        pen.moveTo(start - markWidth)
        pen.show(codeOf(face.blank, mark, markWidth), markWidth)
      }
      const taken = i === clusters.length - 1 ? space : 0
      if (cluster.code !== '' && taken === 0) {
        isUsed[cluster.glyphs[0]!.id] = 1
        pen.show(cluster.code, cluster.advance)
      } else encodeCluster(cluster, isRtl, start, taken, pen, inks)
      start += cluster.advance + taken
    }
    return pen.string
  }

  function encodeCluster(
    { text, glyphs, advance }: Cluster,
    isRtl: boolean,
    left: number,
    taken: number,
    pen: Pen,
    inks: Ink[],
  ): void {
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
      const said = last > 0 ? `${unit} ` : unit
      pen.show(codeOf(i === 0 ? drawn : face.blank, said, width + last), width + last)
    })
    pen.moveTo(left + advance + taken)
  }

  /** The mark that must stand between two words, if any. */
  function markBetween(left: Shaped | undefined, right: Shaped | undefined): string {
    const mark = readerMark(page, left?.clusters.at(-1), right?.clusters[0])
    if (mark === '') return ''
    let string = marks.get(mark)
    if (string === undefined) {
      string = `)${perMille(markWidth, face)}(${codeOf(face.blank, mark, markWidth)}`
      marks.set(mark, string)
    }
    return string
  }

  /** What stands within a string for a space. */
  function space(): string {
    isUsed[face.blank] = 1
    return codeString(face.blank)
  }

  function finish(): void {
    const codes: Code[] = []
    for (let id = 0; id < isUsed.length; id++) {
      if (isUsed[id])
        codes.push({ code: id, text: face.usualText(id) ?? '\ufffd', width: face.font.glyphHAdvance(id) })
    }
    const glyphIds = codes.map(({ code }) => code)
    codes.push(...further)
    const name = `/${tag}+${face.name}`
    const [file, unicode, descriptor, descendant] = [writer.ref(), writer.ref(), writer.ref(), writer.ref()]
    const font = face.subset(glyphIds, appended)
    writer.stream(file, font, `/Length1 ${font.length}`)
    writer.stream(unicode, toUnicode(codes))
    const milli = (units: number) => perMille(units, face)
    writer.object(
      descriptor,
      `<</Type/FontDescriptor/FontName${name}/Flags 4/FontBBox[${face.boundingBox.map(milli).join(' ')}]/ItalicAngle 0
/Ascent ${milli(face.ascender)}/Descent ${milli(face.descender)}/CapHeight ${milli(face.capHeight)}/StemV 0/FontFile2 ${file}>>`,
    )
    writer.object(
      descendant,
      `<</Type/Font/Subtype/CIDFontType2/BaseFont${name}/CIDSystemInfo<</Registry(Adobe)/Ordering(Identity)/Supplement 0>>
/FontDescriptor ${descriptor}/CIDToGIDMap/Identity/W[${codes.map(({ code, width }) => `${code}[${milli(width)}]`).join('')}]>>`,
    )
    writer.object(
      reference,
      `<</Type/Font/Subtype/Type0/BaseFont${name}/Encoding/Identity-H/DescendantFonts[${descendant}]/ToUnicode ${unicode}>>`,
    )
  }

  return { reference, encode, markBetween, space, finish }
}

/** A string of a TJ array as it grows, and where it has come to, in font units. */
interface Pen {
  string: string
  show(code: string, width: number): void
  moveTo(x: number): void
}

function createPen(face: Face): Pen {
  let at = 0
  return {
    string: '',
    show(code, width) {
      this.string += code
      at += width
    },
    moveTo(x) {
      const move = perMille(at - x, face)
      at = x
      if (move !== 0) this.string += `)${move}(`
    },
  }
}

/** What the codes of a cluster stand for, from left to right. A joiner goes with its letter: pdf.js drops it alone. */
function visualUnits(text: string, isRtl: boolean): string[] {
  if (!isRtl) return [...text]
  const units = text.match(/.[\u200c\u200d]*/gsu) ?? []
  return units.reverse().map((unit) => (unit.length === 1 ? unit : [...unit].reverse().join('')))
}

function toUnicode(codes: readonly Code[]): string {
  const lines = codes.map(({ code, text }) => `<${hex4(code)}> <${hexOf(text)}>`)
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

function hexOf(text: string): string {
  let hex = ''
  for (let i = 0; i < text.length; i++) hex += hex4(text.charCodeAt(i))
  return hex
}

const hex4 = (value: number): string => value.toString(16).padStart(4, '0')
