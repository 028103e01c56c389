import { once } from 'node:events'
import type { Writable } from 'node:stream'
import { deflateSync } from 'node:zlib'
import PDFDocument from 'pdfkit'

/** An indirect object; as `12 0 R` where another refers to it. */
export interface PdfReference {
  id: number
  data: Record<string, unknown>
  toString(): string
}

export type PdfWriter = ReturnType<typeof createWriter>

const CHUNK = 1 << 16
// A tenth more bytes than at zlib's usual level, in half the time.
const LEVEL = 3
// Smaller streams gain nothing.
const WORTH_DEFLATING = 256

/**
 * Writes PDF objects with pdfkit, which keeps the pages, images, information and cross references. What a statement has by
 * the hundred is written as text, not as JavaScript objects that pdfkit would turn into it.
 */
export function createWriter(out: Writable, options: object) {
  const doc = new PDFDocument({
    margin: 0,
    autoFirstPage: false,
    // No font of pdfkit's own: it would be one that is not embedded.
    font: null as unknown as string,
    pdfVersion: '1.7',
    ...options,
  }) as unknown as Doc
  const sink = sinkOf(doc, out)

  /** Writes a whole object, `value` in PDF's syntax. */
  function object(reference: PdfReference, value: string): void {
    const offset = doc._offset
    doc._write(`${reference.id} 0 obj\n${value}\nendobj`)
    settle(reference, offset)
  }

  /** Writes a stream; `entries` are those of its dictionary besides its length and filter. */
  function stream(reference: PdfReference, content: Uint8Array | string, entries = ''): void {
    const plain = typeof content === 'string' ? Buffer.from(content, 'latin1') : content
    const isDeflated = plain.length >= WORTH_DEFLATING
    const bytes = isDeflated ? deflated(plain) : plain
    const offset = doc._offset
    const filter = isDeflated ? '/Filter/FlateDecode' : ''
    doc._write(`${reference.id} 0 obj\n<<${entries}${filter}/Length ${bytes.length}>>\nstream`)
    doc._write(bytes)
    doc._write('\nendstream\nendobj')
    settle(reference, offset)
  }

  /** Ends the content of the page, before pdfkit does it with a deflation of its own. */
  function endContent(operators: string): void {
    const { content } = doc.page
    const drawn = deflated(Buffer.concat([...content.buffer, Buffer.from(operators, 'latin1')]))
    Object.assign(content, { compress: false, buffer: [drawn] })
    content.data.Filter = 'FlateDecode'
  }

  function settle(reference: PdfReference, offset: number): void {
    const written = reference as PdfReference & { offset: number }
    written.offset = offset
    doc._refEnd(written)
  }

  return {
    doc,
    ref: (): PdfReference => doc.ref({}),
    object,
    stream,
    endContent,
    ended: sink.ended,
    drained: sink.drained,
  }
}

const deflated = (bytes: Uint8Array): Uint8Array => deflateSync(bytes, { level: LEVEL })

/** A text string of PDF. */
export function textString(text: string): string {
  return `<feff${Buffer.from(text, 'utf16le').swap16().toString('hex')}>`
}

/** What of pdfkit's document its types leave out. */
interface Doc {
  page: {
    content: PdfReference & { buffer: Uint8Array[]; write(chunk: Uint8Array): void }
    dictionary: PdfReference
    fonts: Record<string, unknown>
    xobjects: Record<string, unknown>
  }
  ref(data: object): PdfReference
  addPage(): void
  end(): void
  push(chunk: Uint8Array | null): boolean
  read(): Uint8Array
  _offset: number
  _write(data: Uint8Array | string): void
  _refEnd(reference: PdfReference & { offset: number }): void
  getStructTreeRoot(): PdfReference
  getStructParentTree(): { add(key: number, value: PdfReference): void }
  image(bytes: Buffer, x: number, y: number, options: object): void
}

/**
 * Takes what pdfkit writes, a string for each line of the file, in place of the stream that its document is: gathered, lines
 * cost neither a call nor an object each, and none waits for the stream's first tick.
 */
function sinkOf(doc: Doc, out: Writable) {
  let chunk = Buffer.allocUnsafe(CHUNK)
  let filled = 0
  const room = (length: number) => {
    if (filled + length <= CHUNK) return
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
        if (filled > 0) out.write(chunk.subarray(0, filled))
        resolve()
      } else doc._write(data)
      return true
    }
  })
  doc._write = (data) => {
    const length = typeof data === 'string' ? data.length + 1 : data.length
    room(length)
    doc._offset += length
    if (length > CHUNK) out.write(typeof data === 'string' ? Buffer.from(`${data}\n`, 'latin1') : data)
    else if (typeof data === 'string') {
      chunk.write(data, filled, 'latin1')
      filled += length
      chunk[filled - 1] = 10
    } else {
      chunk.set(data, filled)
      filled += length
    }
  }
  const { _offset: written } = doc
  doc._write(header)
  doc._offset = written
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
