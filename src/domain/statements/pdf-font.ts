import type { Face } from './face.ts'
import type { Shaped } from './fonts.ts'

/** The part of a PDF writer that fonts need: pdfkit's document has it. */
interface Writer {
  ref(data: object): PdfReference
}
export interface PdfReference {
  data: Record<string, unknown>
  end(chunk?: Uint8Array | string): void
}

/**
 * A font as one document embeds it. Each pair of a glyph and what it stands for has a code of its own, so that ToUnicode
 * is exact though one glyph may stand for several texts. A ligature stands for its first character alone; the others
 * follow as codes without ink and width, since readers take one code's characters for left to right.
 */
export function embedFont(writer: Writer, face: Face, tag: string) {
  const reference = writer.ref({})
  const subset = face.createSubset()
  const codes = new Map<string, number>()
  const texts: string[] = ['']
  const glyphIds: number[] = [0]
  const widths: number[] = [0]
  const perMille = (units: number) => Math.round((units * 1e5) / face.unitsPerEm) / 100
  const blank = face.hbFont.nominalGlyph(0x20) ?? 0

  function codeOf(glyphId: number, text: string, width: number): string {
    const key = `${glyphId} ${text} ${width === 0 ? 0 : 1}`
    let code = codes.get(key)
    if (code === undefined) {
      code = texts.push(text) - 1
      glyphIds.push(subset.includeGlyph(glyphId))
      widths.push(width)
      codes.set(key, code)
    }
    return code.toString(16).padStart(4, '0')
  }

  /** What stands within a TJ array for shaped text; may leave and enter the array to raise a glyph. */
  function encode({ glyphs }: Shaped, isRtl: boolean, size: number): string {
    let out = ''
    let hex = ''
    // What the pen must still move, in font units; TJ moves left.
    let move = 0
    const flush = () => {
      if (hex !== '') out += `<${hex}>`
      hex = ''
    }
    const show = (code: string) => {
      if (move !== 0) {
        flush()
        out += perMille(-move)
        move = 0
      }
      hex += code
    }
    for (const { id, advance, x, y, text } of glyphs) {
      const [first = '', ...rest] = text
      const carriers = rest.map((char) => codeOf(blank, char, 0))
      // Readers go from left to right and turn right-to-left text round: later characters stand further left.
      if (isRtl) for (const carrier of carriers.reverse()) show(carrier)
      const width = face.hbFont.glyphHAdvance(id)
      move += x
      if (y !== 0) {
        flush()
        out += `${move === 0 ? '' : perMille(-move)}] TJ ${(y * size) / face.unitsPerEm} Ts [<${codeOf(id, first, width)}>] TJ 0 Ts [`
        move = 0
      } else show(codeOf(id, first, width))
      move += advance - width - x
      if (!isRtl) for (const carrier of carriers) show(carrier)
    }
    flush()
    return move === 0 ? out : `${out}${perMille(-move)}`
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

  return { reference, encode, finish }
}

export type EmbeddedFont = ReturnType<typeof embedFont>

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
