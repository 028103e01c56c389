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
// Objects in a stream.
const PACK = 200
// Of an object in the cross references, in bytes.
const ENTRY = 8
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
  /** The streams that are full, as their ids. */
  const packs: number[] = []
  /** Of the next stream. */
  let [index, pack]: [string[], string] = [[], '']

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
    streamOf(reference, isDeflated ? deflated(plain) : plain, isDeflated, entries)
  }

  /** Writes a stream as it is, deflated or not. */
  function streamOf(reference: PdfReference, bytes: Uint8Array, isDeflated: boolean, entries: string): void {
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

  /** Writes an object together with others in a compressed stream (PDF 1.7, 7.5.7): a sixth of the bytes. */
  function packed(reference: PdfReference, value: string): void {
    settle(reference, -(1 + packs.length * PACK + index.length))
    index.push(`${reference.id} ${pack.length}`)
    pack += `${value}\n`
    if (index.length === PACK) finishPack()
  }

  function finishPack(): void {
    if (index.length === 0) return
    const head = `${index.join(' ')}\n`
    const reference = doc.ref({})
    stream(reference, head + pack, `/Type/ObjStm/N ${index.length}/First ${head.length}`)
    packs.push(reference.id)
    index = []
    pack = ''
  }

  /** Ends the document; what it consists of can then be found by a stream of cross references (7.5.8). */
  function end(): Promise<void> {
    finishPack()
    doc.end()
    return sink.ended()
  }

  doc._finalize = () => {
    const offset = doc._offset
    const count = doc._offsets.length + 2
    const entries = Buffer.alloc(ENTRY * count)
    const set = (id: number, type: number, where: number, which: number) => {
      entries[ENTRY * id] = type
      entries.writeUIntBE(where, ENTRY * id + 1, 5)
      entries.writeUInt16BE(which, ENTRY * id + 6)
    }
    set(0, 0, 0, 0xffff)
    doc._offsets.forEach((where, i) => {
      const place = -where - 1
      if (where >= 0) set(i + 1, 1, where, 0)
      else set(i + 1, 2, packs[Math.floor(place / PACK)]!, place % PACK)
    })
    set(count - 1, 1, offset, 0)
    const bytes = deflated(entries)
    const id = `<${Buffer.from(doc._id).toString('hex')}>`
    doc._write(
      `${count - 1} 0 obj\n<</Type/XRef/Size ${count}/W[1 5 2]/Root ${doc._root}/Info ${doc._info}/ID[${id}${id}]` +
        `/Filter/FlateDecode/Length ${bytes.length}>>\nstream`,
    )
    doc._write(bytes)
    doc._write(`\nendstream\nendobj\nstartxref\n${offset}\n%%EOF`)
    doc.push(null)
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
    packed,
    stream,
    streamOf,
    endContent,
    end,
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
  _id: Uint8Array
  _root: PdfReference
  _info: PdfReference
  _offset: number
  /** By id, from 1: an object's place in the file; below zero its place among those that are packed. */
  _offsets: number[]
  _finalize(): void
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
