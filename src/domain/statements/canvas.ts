import { once } from 'node:events'
import type { Writable } from 'node:stream'
import PDFDocument from 'pdfkit'
import type { Direction } from './bidi.ts'
import type { Face } from './face.ts'
import type { Fonts, Shaped } from './fonts.ts'
import type { Line } from './layout.ts'
import { type EmbeddedFont, embedFont, type Ink, type PdfReference } from './pdf-font.ts'

export const PAGE = { width: 595.28, height: 841.89 }

/** An element of the structure tree that may still get children; nothing of it is kept once it is closed. */
export interface Tag {
  type: string
  parent: PdfReference
  attributes: object
  reference: PdfReference
  kids: unknown[]
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
  const doc = new PDFDocument({
    size: [PAGE.width, PAGE.height],
    margin: 0,
    autoFirstPage: false,
    // No font of pdfkit's own: it would be one that is not embedded.
    font: null as unknown as string,
    pdfVersion: '1.7',
    lang: language,
    displayTitle: true,
    tagged,
    info,
  }) as unknown as Doc
  const sink = sinkOf(doc, out)
  const embedded = new Map<Face, { name: string; font: EmbeddedFont }>()
  const inkForms = new Map<string, PdfReference>()
  let operators: string[] = []
  let parents: PdfReference[] = []
  let pages = 0
  let used = new Set<string>()
  /** Selected on this page, as the operator that selects it. */
  let font = ''

  function fontFor(face: Face) {
    let found = embedded.get(face)
    if (found === undefined) {
      const index = fonts.faces.indexOf(face)
      const tag = `TABIB${'ABC'[index]}`
      found = { name: `F${index}`, font: embedFont(doc, face, tag, direction) }
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
    flushPage()
    used = new Set()
    font = ''
    if (!tagged || parents.length === 0) return
    const key = pages - 1
    doc.page.dictionary.data.StructParents = key
    const list = doc.ref(parents)
    list.end()
    list.data = {}
    doc.getStructParentTree().add(key, list)
    parents = []
  }

  function flushPage(): void {
    doc.page.write(operators.join('\n'))
    operators = []
  }

  /** Draws a line with its left end at `x` and its baseline at `y`. */
  function text({ pieces }: Line, x: number, y: number, size: number): void {
    operators.push(textOperators(pieces, x, y, size))
  }

  function textOperators(pieces: Line['pieces'], x: number, y: number, size: number): string {
    const parts: Shaped[] = []
    // Of isolates nothing is drawn.
    for (const piece of pieces) for (const part of piece.parts) if (part.clusters.length > 0) parts.push(part)
    let [before]: (Shaped | undefined)[] = []
    let [array, inked] = ['', '']
    let at = 0
    for (let i = 0; i < parts.length; i++) {
      const part = parts[i]!
      const { name, font: own } = fontFor(part.face)
      if (before === undefined) array = `${selected(name, size)}[`
      else {
        if (part.face !== before.face) array += `] TJ ${selected(name, size)}[`
        array += own.markBetween(before, part)
      }
      if (!isTakenIn(part, before, parts[i + 1])) {
        const after = parts[i + 1]
        const space = after !== undefined && isTakenIn(after, part, parts[i + 2]) ? after : undefined
        const { array: codes, inks } = own.encode(part, space && space.width * space.face.unitsPerEm)
        array += codes
        for (const ink of inks) inked += drawInk(part.face, ink, x + at * size, y, size)
      }
      at += part.width
      before = part
    }
    if (before === undefined) return ''
    array += fontFor(before.face).font.markBetween(before, undefined)
    return `BT 1 0 0 -1 ${round(x)} ${round(y)} Tm ${array}] TJ ET${inked}`
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
      form = doc.ref({
        Type: 'XObject',
        Subtype: 'Form',
        BBox: [xBearing, yBearing + height, xBearing + width, yBearing],
        Matrix: [1 / face.unitsPerEm, 0, 0, 1 / face.unitsPerEm, 0, 0],
      })
      form.end(pathOf(face, glyphId))
      inkForms.set(name, form)
    }
    doc.page.xobjects[name] = form
    return `\nq ${size} 0 0 ${-size} ${round(left + x * size)} ${round(baseline - y * size)} cm /${name} Do Q`
  }

  /** Opens a structure element; attributes as the PDF standard names them. */
  function open(type: string, parent: Tag | undefined, attributes: object = {}): Tag | undefined {
    if (!tagged) return undefined
    const root = doc.getStructTreeRoot()
    const reference = doc.ref({})
    if (parent === undefined) root.data.K = [reference]
    else parent.kids.push(reference)
    return { type, parent: parent?.reference ?? root, attributes, reference, kids: [] }
  }

  /** Draws as the content of a structure element; without one, as an artifact that readers skip. */
  function content(tag: Tag | undefined, draw: () => void): void {
    if (!tagged) {
      draw()
      return
    }
    const { dictionary } = doc.page
    if (tag === undefined) operators.push('/Artifact BMC')
    else {
      const mcid = parents.push(tag.reference) - 1
      tag.page ??= dictionary
      tag.kids.push(tag.page === dictionary ? mcid : { Type: 'MCR', Pg: dictionary, MCID: mcid })
      operators.push(`/${tag.type} <</MCID ${mcid}>> BDC`)
    }
    draw()
    operators.push('EMC')
  }

  function close(tag: Tag | undefined): void {
    if (tag === undefined) return
    const { reference, type: S, parent: P, page: Pg, kids, attributes } = tag
    reference.data = { S, P, Pg, K: kids.length === 1 ? kids[0] : kids, ...attributes }
    reference.end()
    reference.data = {}
  }

  /** Fills rectangles (x, y, width, height) in a grey from 0, black, to 1. */
  function fill(rectangles: readonly (readonly number[])[], grey: number): void {
    operators.push(`${grey} g`, ...rectangles.map((one) => `${one.map(round).join(' ')} re`), 'f 0 g')
  }

  /** Something drawn on every page whose looks are known last: drawn once, referred to by each page. */
  function deferred() {
    const form = doc.ref({})
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
        const names = [...embedded.values()].map(({ name, font }) => [name, font.reference] as const)
        Object.assign(form.data, {
          Type: 'XObject',
          Subtype: 'Form',
          BBox: [x - 1, -2 * size, x + width + 1, size],
          Resources: { Font: Object.fromEntries(names) },
        })
        form.end(drawn)
      },
    }
  }

  /** Draws an image as large as it fits into a box, at its left or right end. */
  function image(bytes: Buffer, x: number, y: number, fit: [number, number], align: 'left' | 'right'): void {
    flushPage()
    doc.image(bytes, x, y, { fit, align })
  }

  async function finish(): Promise<void> {
    finishPage()
    for (const { font } of embedded.values()) font.finish()
    if (tagged) doc.getStructTreeRoot().data.ParentTreeNextKey = pages
    doc.end()
    await sink.ended()
  }

  return {
    startPage,
    text,
    fill,
    image,
    open,
    content,
    close,
    deferred,
    finish,
    /** Resolves when what was drawn so far may be forgotten. @throws what writing failed with */
    drained: () => sink.drained(),
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
const MARK_LAST = /.\p{M}$/su

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

const round = (value: number): number => Math.round(value * 100) / 100

/** What of pdfkit's document its types leave out. */
interface Doc {
  page: {
    dictionary: PdfReference
    fonts: Record<string, unknown>
    xobjects: Record<string, unknown>
    write(operators: string): void
  }
  ref(data: object): PdfReference
  addPage(): void
  end(): void
  push(chunk: Uint8Array | null): boolean
  read(): Uint8Array
  getStructTreeRoot(): PdfReference
  getStructParentTree(): { add(key: number, value: PdfReference): void }
  image(bytes: Buffer, x: number, y: number, options: object): void
}

const CHUNK = 1 << 16

/**
 * Takes what pdfkit writes, a chunk for each line of the file, in place of the stream that its document is: gathered, lines
 * cost neither a call nor an object each, and none waits for the stream's first tick.
 */
function sinkOf(doc: Doc, out: Writable) {
  let chunk = Buffer.allocUnsafe(CHUNK)
  let filled = 0
  const flush = () => {
    if (filled > 0) out.write(chunk.subarray(0, filled))
    chunk = Buffer.allocUnsafe(CHUNK)
    filled = 0
  }
  // It is thrown where somebody waits.
  out.on('error', () => {})
  const header = doc.read()
  const ended = new Promise<void>((resolve) => {
    doc.push = (data) => {
      if (data === null) {
        flush()
        resolve()
        return true
      }
      if (filled + data.length > CHUNK) flush()
      if (data.length > CHUNK) out.write(data)
      else {
        chunk.set(data, filled)
        filled += data.length
      }
      return true
    }
  })
  doc.push(header)
  return {
    async ended(): Promise<void> {
      await ended
      if (out.errored) throw out.errored
    },
    async drained(): Promise<void> {
      if (out.errored) throw out.errored
      if (out.writableNeedDrain) await once(out, 'drain')
    },
  }
}
