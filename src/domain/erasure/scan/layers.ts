import { NEWLINE, SHORTEST_TEXT } from './bytes.ts'
import { type Decoded, textSize } from './decode.ts'
import { decompress, decompressBare, mayBeCompressed } from './decompress.ts'

/**
 * Reads `bytes` from `from` to `to`, within so many encodings. What is found in a decoded text has the place of the
 * outermost encoding, so what calls back into `Layers` hands on its own depth, and where the encoding begins.
 */
export type Pass = (bytes: Uint8Array, from: number, to: number, depth: number) => void

/** Encodings that may be within each other. */
const DEEPEST = 6
/** Depths that a pass can have, and the one that it decodes into. */
export const DEPTHS = DEEPEST + 2
const UNCOMPRESSED = 1 << 22
/** What gzip begins with (RFC 1952). */
const GZIP = Buffer.from([0x1f, 0x8b, 8])
/** What a file in a ZIP begins with, as in an office document. */
const ZIP = Buffer.from('PK\x03\x04')

/** Encodings within encodings: what was decoded of a piece is passed over as the piece is, up to a depth and a budget. */
export class Layers {
  /** Places that were not decoded to their end. */
  cutShort = 0
  /** Names of the encodings that are open, outermost first. */
  readonly path: string[] = []
  readonly #pass: Pass
  readonly #decoded: Decoded[] = Array.from({ length: DEPTHS }, () => ({
    bytes: new Uint8Array(0),
    length: 0,
  }))
  #top: Uint8Array = new Uint8Array(0)
  #base = 0
  /** Where the outermost encoding begins. */
  #origin = 0
  /** Bytes that may yet be decoded. */
  #budget = 0
  readonly #cut = () => {
    this.cutShort += 1
  }

  constructor(pass: Pass) {
    this.#pass = pass
  }

  /** Passes over a piece, which begins at `base` of everything, and over what is in it. */
  piece(bytes: Uint8Array, base: number): void {
    this.#top = bytes
    this.#base = base
    this.#budget = 64 * bytes.length + (1 << 20)
    this.#files('gzip', GZIP, bytes, 0, 0)
    this.#files('zip', ZIP, bytes, 0, 0)
    this.#pass(bytes, 0, bytes.length, 0)
  }

  /** Where something lies in everything, or the encoding that it is in, and where the line of that begins. */
  place(depth: number, at: number): { offset: number; line: number } {
    const place = depth === 0 ? at : this.#origin
    const line = place === 0 ? 0 : this.#top.lastIndexOf(NEWLINE, place - 1) + 1
    return { offset: this.#base + place, line: this.#base + line }
  }

  /** What to decode into at this depth; it holds what was decoded until the next is. */
  into(depth: number): Decoded {
    return this.#decoded[depth + 1]!
  }

  /** Passes over what was decoded. `at` is where it lay, at depth 0. */
  within(encoding: string, bytes: Uint8Array, from: number, to: number, depth: number, at: number): void {
    this.#budget -= to - from
    if (depth >= DEEPEST || this.#budget < 0) {
      this.cutShort += 1
      return
    }
    if (depth === 0) this.#origin = at
    this.path.push(encoding)
    this.#pass(bytes, from, to, depth + 1)
    this.path.pop()
  }

  /** Passes over all that was decoded. */
  whole(encoding: string, { bytes, length }: Decoded, depth: number, at: number): void {
    this.within(encoding, bytes, 0, length, depth, at)
  }

  /** Passes over what was decoded, but for what is no text. */
  stretches(encoding: string, { bytes, length }: Decoded, depth: number, at: number): void {
    let from = 0
    for (let place = 0; place <= length; ) {
      const size = place < length ? textSize(bytes, place, length) : 0
      if (size > 0) {
        place += size
        continue
      }
      if (place - from >= SHORTEST_TEXT) this.within(encoding, bytes, from, place, depth, at)
      from = ++place
    }
  }

  /** The same, when what was decoded may be compressed as well. */
  stretchesOrFile(encoding: string, decoded: Decoded, depth: number, at: number): void {
    if (mayBeCompressed(decoded)) {
      const data = decoded.bytes.subarray(0, decoded.length)
      if (data[0] === ZIP[0]) this.#files(`${encoding} of zip`, ZIP, data.slice(), depth, at)
      const plain =
        data[0] === ZIP[0]
          ? undefined
          : (decompress(data, UNCOMPRESSED, this.#cut) ?? decompressBare(data, UNCOMPRESSED))
      if (plain) this.within(`${encoding} of gzip`, plain, 0, plain.length, depth, at)
    }
    this.stretches(encoding, decoded, depth, at)
  }

  /** What begins like zlib (RFC 1950), among other bytes. */
  zlib(bytes: Uint8Array, at: number, to: number, depth: number): void {
    const plain = decompress(bytes.subarray(at, to), UNCOMPRESSED, this.#cut)
    if (plain) this.within('zlib', plain, 0, plain.length, depth, at)
  }

  /** Compressed files in what is read, wherever they begin. `place` is where it lay, when it was decoded. */
  #files(encoding: string, head: Buffer, bytes: Uint8Array, depth: number, place: number): void {
    const searched = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
    for (let at = searched.indexOf(head); at >= 0; at = searched.indexOf(head, at + 1)) {
      const plain = decompress(bytes.subarray(at), UNCOMPRESSED, this.#cut)
      if (plain) this.within(encoding, plain, 0, plain.length, depth, depth === 0 ? at : place)
    }
  }
}
