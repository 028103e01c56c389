import type { Writable } from 'node:stream'
import type { Direction } from './bidi.ts'
import type { Face } from './face.ts'
import type { Fonts, Shaped } from './fonts.ts'
import type { Line } from './layout.ts'
import { type EmbeddedFont, embedFont, type Ink } from './pdf-font.ts'
import { createWriter, type PdfReference } from './pdf-writer.ts'
import { isPng, packPng } from './png.ts'
import { MARK_LAST, type Reading, readingsOf } from './readers.ts'

export const PAGE = { width: 595.28, height: 841.89 }

// In ems; to be clear of the tallest glyphs.
const APART = 2

/** An element of the structure tree that may still get children; nothing of it is kept once it is closed. */
export interface Tag {
  type: string
  parent: PdfReference
  attributes: string
  reference: PdfReference
  /** In PDF's syntax. */
  kids: string[]
  page?: PdfReference
}

interface Options {
  out: Writable
  tagged: boolean
  title: string
  language: string
  direction: Direction
  /** Goes into the file's dates and identity: the same input gives the same bytes. */
  createdAt: Date
  subject: string
}

export type Canvas = ReturnType<typeof createCanvas>

/**
 * A PDF that is written page by page, with pdfkit as its writer: text arrives as glyphs, each page is one string of
 * operators, and structure elements leave memory as they are closed. Coordinates are points from the upper left corner.
 */
export function createCanvas(
  fonts: Fonts,
  { out, tagged, title, language, direction, createdAt, subject }: Options,
) {
  const info = {
    Title: title,
    Subject: subject,
    CreationDate: createdAt,
    Producer: 'tabib',
    Creator: 'tabib',
  }
  const size = [PAGE.width, PAGE.height]
  const writer = createWriter(out, { size, lang: language, displayTitle: true, tagged, info })
  const { doc } = writer
  const embedded = new Map<Face, { name: string; font: EmbeddedFont }>()
  const inkForms = new Map<string, PdfReference>()
  let operators: string[] = []
  let parents: PdfReference[] = []
  let pages = 0
  let used = new Set<string>()
  /** Selected on this page, as the operator that selects it. */
  let font = ''
  const inks: Ink[] = []
  /** What was drawn last: how PDFium must read it, and on which line. */
  let last: { line: Reading['line']; y: number } = { line: undefined, y: 0 }

  function fontFor(face: Face) {
    let found = embedded.get(face)
    if (found === undefined) {
      const index = fonts.faces.indexOf(face)
      const tag = `TABIB${'ABC'[index]}`
      found = { name: `F${index}`, font: embedFont(writer, face, tag, direction) }
      embedded.set(face, found)
    }
    if (!used.has(found.name)) {
      used.add(found.name)
      doc.page.fonts[found.name] = found.font.reference
    }
    return found
  }

  function startPage(): void {
    finishPage()
    doc.addPage()
    pages++
  }

  function finishPage(): void {
    if (doc.page === null) return
    writer.endContent(operators.join('\n'))
    operators = []
    used = new Set()
    font = ''
    if (!tagged || parents.length === 0) return
    const key = pages - 1
    doc.page.dictionary.data.StructParents = key
    const list = writer.ref()
    writer.packed(list, `[${parents.join(' ')}]`)
    doc.getStructParentTree().add(key, list)
    parents = []
  }

  /** Draws a line with its left end at `x` and its baseline at `y`. */
  function text({ pieces }: Line, x: number, y: number, size: number): void {
    operators.push(textOperators(pieces, x, y, size))
  }

  function textOperators(pieces: Line['pieces'], x: number, y: number, size: number): string {
    const parts: Shaped[] = []
    const starts: number[] = []
    const spaces: boolean[] = []
    const lefts: number[] = []
    let width = 0
    for (const { parts: own, start, isSpace } of pieces) {
      for (const part of own) {
        // Of isolates nothing is drawn.
        if (part.clusters.length > 0) {
          parts.push(part)
          starts.push(start)
          spaces.push(isSpace)
          lefts.push(width)
        }
        width += part.width
      }
    }
    if (parts.length === 0) return ''
    const { of, readings, order } = readingsOf(parts, starts, spaces)
    let line = Math.abs(y - last.y) < size ? last.line : undefined
    let isAlone = false
    let own = fontFor(parts[0]!.face)
    let array = `${selected(own.name, size)}[(`
    let inked = ''
    /** Where the pen is, as the part that begins there. */
    let pen = 0
    for (let n = 0; n < parts.length; n++) {
      const i = order === undefined ? n : order[n]!
      const part = parts[i]!
      const [before, after] = [parts[i - 1], parts[i + 1]]
      if (isTakenIn(part, before, after)) continue
      const reading = readings === undefined ? of : readings[i]!
      const left = x + lefts[i]! * size
      if (i !== pen) array += `)] TJ ${at(left, y)}`
      const next = fontFor(part.face)
      if (next !== own) {
        own = next
        array += `)] TJ ${selected(own.name, size)}[(`
      }
      const mark = own.font.markBetween(before, part)
      // To PDFium the marks are letters, those that it must not read with a code.
      const goesBefore = line === 'rtl'
      if (goesBefore) array += mark
      if (reading.isAlone !== isAlone) {
        isAlone = reading.isAlone
        array += `)] TJ ${isAlone ? '/Span BMC' : 'EMC'} [(`
      }
      if (reading.line !== undefined && reading.line !== line) {
        if (line !== undefined) array += apart(own.font, left, y, size)
        line = reading.line
      }
      if (!goesBefore) array += mark
      const takesIn = after !== undefined && isTakenIn(after, part, parts[i + 2])
      array += own.font.encode(part, takesIn ? after.width * after.face.unitsPerEm : 0, inks)
      for (const ink of inks) inked += drawInk(part.face, ink, left, y, size)
      inks.length = 0
      pen = takesIn ? i + 2 : i + 1
    }
    if (pen !== parts.length) array += `)] TJ ${at(x + width * size, y)}`
    array += own.font.markBetween(parts.at(-1), undefined)
    last = { line, y }
    return `BT 1 0 0 -1 ${round(x)} ${round(y)} Tm ${array})] TJ ${isAlone ? 'EMC ' : ''}ET${inked}`
  }

  /**
   * Draws spaces far above a line, which for PDFium ends the line there; other readers leave such spaces out, and what follows
   * stands where it would without. Two, since PDFium takes one by itself to have no width, and leaves it out.
   */
  function apart(font: EmbeddedFont, x: number, y: number, size: number): string {
    return `)] TJ ${at(x, y - APART * size)}${font.space().repeat(2)})] TJ ${at(x, y)}`
  }

  function selected(name: string, size: number): string {
    const next = `/${name} ${size} Tf `
    if (next === font) return ''
    font = next
    return next
  }

  /** As a form, since any text that is drawn is read. */
  function drawInk(face: Face, { glyphId, x, y }: Ink, left: number, baseline: number, size: number): string {
    const name = `G${fonts.faces.indexOf(face)}x${glyphId}`
    let form = inkForms.get(name)
    if (form === undefined) {
      const extents = face.font.glyphExtents(glyphId)
      const { xBearing = 0, yBearing = 0, width = 0, height = 0 } = extents ?? {}
      const box = [xBearing, yBearing + height, xBearing + width, yBearing]
      const scale = 1 / face.unitsPerEm
      const entries = `/Type/XObject/Subtype/Form/BBox[${box.join(' ')}]/Matrix[${scale} 0 0 ${scale} 0 0]`
      form = writer.ref()
      writer.stream(form, pathOf(face, glyphId), entries)
      inkForms.set(name, form)
    }
    doc.page.xobjects[name] = form
    return `\nq ${size} 0 0 ${-size} ${round(left + x * size)} ${round(baseline - y * size)} cm /${name} Do Q`
  }

  /** Opens a structure element; attributes as they stand in its dictionary. */
  function open(type: string, parent: Tag | undefined, attributes = ''): Tag | undefined {
    if (!tagged) return undefined
    const root = doc.getStructTreeRoot()
    const reference = writer.ref()
    if (parent === undefined) root.data.K = [reference]
    else parent.kids.push(`${reference}`)
    return { type, parent: parent?.reference ?? root, attributes, reference, kids: [] }
  }

  /** What is drawn up to `end` is the content of a structure element; without one an artifact, which readers skip. */
  function begin(tag: Tag | undefined): void {
    if (!tagged) return
    if (tag === undefined) {
      operators.push('/Artifact BMC')
      return
    }
    const { dictionary } = doc.page
    const mcid = parents.push(tag.reference) - 1
    tag.page ??= dictionary
    tag.kids.push(tag.page === dictionary ? `${mcid}` : `<</Type/MCR/Pg ${dictionary}/MCID ${mcid}>>`)
    operators.push(`/${tag.type}<</MCID ${mcid}>>BDC`)
  }

  function end(): void {
    if (tagged) operators.push('EMC')
  }

  function close(tag: Tag | undefined): void {
    if (tag === undefined) return
    const { reference, type, parent, page, kids, attributes } = tag
    const content = kids.length === 1 ? ` ${kids[0]}` : `[${kids.join(' ')}]`
    const where = page === undefined ? '' : `/Pg ${page}`
    writer.packed(reference, `<</S/${type}/P ${parent}${where}/K${content}${attributes}>>`)
  }

  /** Fills rectangles (x, y, width, height) in a grey from 0, black, to 1. */
  function fill(rectangles: readonly (readonly number[])[], grey: number): void {
    operators.push(`${grey} g`, ...rectangles.map((one) => `${one.map(round).join(' ')} re`), 'f 0 g')
  }

  /** Something drawn on every page whose looks are known last: drawn once, referred to by each page. */
  function deferred() {
    const form = writer.ref()
    return {
      draw(x: number, y: number): void {
        doc.page.xobjects.Last = form
        operators.push(`q 1 0 0 1 ${round(x)} ${round(y)} cm /Last Do Q`)
      },
      /** `align`: which end of the line stands where it was drawn. */
      settle(line: Line, size: number, align: 'left' | 'right'): void {
        const width = line.width * size
        const x = align === 'left' ? 0 : -width
        font = ''
        const drawn = textOperators(line.pieces, x, 0, size)
        const names = [...embedded.values()].map(({ name, font }) => `/${name} ${font.reference}`).join('')
        const box = [x - 1, -2 * size, x + width + 1, size].map(round).join(' ')
        writer.stream(form, drawn, `/Type/XObject/Subtype/Form/BBox[${box}]/Resources<</Font<<${names}>>>>`)
      },
    }
  }

  /**
   * Draws a PNG or JPEG as large as it fits into a box, at its left or right end. @throws Error where it is neither
   */
  function image(bytes: Buffer, x: number, y: number, fit: [number, number], align: 'left' | 'right'): void {
    if (!isPng(bytes)) {
      doc.page.content.write(Buffer.from(`${operators.join('\n')}\n`, 'latin1'))
      operators = []
      doc.image(bytes, x, y, { fit, align })
      return
    }
    const { width, height, rgb, alpha } = packPng(bytes)
    const entries = `/Type/XObject/Subtype/Image/Width ${width}/Height ${height}/BitsPerComponent 8`
    const [picture, mask] = [writer.ref(), alpha && writer.ref()]
    const masked = mask === undefined ? '' : `/SMask ${mask}`
    writer.streamOf(picture, rgb, true, `${entries}/ColorSpace/DeviceRGB${masked}`)
    if (mask !== undefined) writer.streamOf(mask, alpha!, true, `${entries}/ColorSpace/DeviceGray`)
    doc.page.xobjects.Logo = picture
    const scale = Math.min(fit[0] / width, fit[1] / height)
    const left = align === 'left' ? x : x + fit[0] - width * scale
    const box = [width * scale, 0, 0, -height * scale, left, y + height * scale].map(round).join(' ')
    operators.push(`q ${box} cm /Logo Do Q`)
  }

  async function finish(): Promise<void> {
    finishPage()
    for (const { font } of embedded.values()) font.finish()
    if (tagged) doc.getStructTreeRoot().data.ParentTreeNextKey = pages
    await writer.end()
  }

  return {
    startPage,
    text,
    fill,
    image,
    open,
    begin,
    end,
    close,
    deferred,
    finish,
    /** Resolves when what was drawn so far may be forgotten. @throws what writing failed with */
    drained: writer.drained,
    get pages() {
      return pages
    },
  }
}

/**
 * Whether a space is told by what stands to its left: pdf.js gives a mark no width, and sees a second space between a
 * mark that comes first after a space and its letter.
 */
function isTakenIn(space: Shaped, left: Shaped | undefined, right: Shaped | undefined): boolean {
  const isSpace = space.clusters.length === 1 && space.clusters[0]?.text === ' '
  return (
    isSpace &&
    left?.face === space.face &&
    right?.isRtl === true &&
    MARK_LAST.test(right.clusters[0]?.text ?? '')
  )
}

function pathOf(face: Face, glyphId: number): string {
  let [penX, penY] = [0, 0]
  const operators = face.font.glyphToJson(glyphId).map(({ type, values }) => {
    const v = values as [number, number, number, number, number, number]
    const [x, y] = [v.at(-2) ?? penX, v.at(-1) ?? penY]
    // PDF has cubic curves alone.
    const control = (from: number, to: number) => from + ((to - from) * 2) / 3
    const curve = () => [control(penX, v[0]), control(penY, v[1]), control(x, v[0]), control(y, v[1]), x, y]
    const operator =
      type === 'Q'
        ? `${curve().map(round).join(' ')} c`
        : `${v.join(' ')} ${{ M: 'm', L: 'l', C: 'c', Z: 'h' }[type]}`
    ;[penX, penY] = [x, y]
    return operator
  })
  return `${operators.join('\n')}\nf`
}

/** Begins to show text there. */
const at = (x: number, baseline: number): string => `1 0 0 -1 ${round(x)} ${round(baseline)} Tm [(`

const round = (value: number): number => Math.round(value * 100) / 100
