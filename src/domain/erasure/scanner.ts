import type { FingerprintKey } from './fingerprint.ts'
import { NEWLINE, SHARED } from './scan/bytes.ts'
import { BASE64, plainArray } from './scan/decode.ts'
import { Findings } from './scan/findings.ts'
import { Layers } from './scan/layers.ts'
import { Sweep } from './scan/sweep.ts'

/** Whom a fingerprint is of; both words come back in a hit. */
export interface Wanted {
  subject: string
  kind: string
  fingerprint: Uint8Array
}

/** An identifier that was found. It never holds the text that it was found in. */
export interface Hit {
  subject: string
  kind: string
  /** In bytes from the beginning: of the occurrence, or of the line or run in whose encoding it lay. */
  offset: number
  /** What it was wrapped in, outermost first: `['base64', 'escapes']`; empty when it stood there. */
  encodings: string[]
}

export interface Scanner {
  /** Hits of one value or row, each identifier once a line. */
  scan(text: string | Uint8Array): Hit[]
  /** Hits of a stream of any length, in memory that does not grow with it. */
  stream(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Hit>
  /** Places that were not decoded to their end: encodings within encodings without end, compressed data that is too long. */
  readonly cutShort: number
}

/**
 * Finds identifiers of one tenant's subjects by their fingerprints, in whatever encoding people and systems write them:
 * a pass over the bytes takes up numbers (of any script, across separators), addresses and words, and filters them by a
 * keyed hash; what passes is proved by HMAC. Escapes, base64, hex, lists of bytes, UTF-16, mojibake and compressed data are
 * decoded and passed over likewise, within each other too, to a depth of six. See docs/erasure.md for what is found and what is not.
 */
export function openScanner(key: FingerprintKey, wanted: Iterable<Wanted>): Scanner {
  return new Pieces(key, wanted)
}

/**
 * Finds whatever looks like a phone number, an e-mail address or an e-Tazkira's number, anybody's, in the same encodings.
 * Hits have no subject.
 */
export function openPatternScanner(): Scanner {
  return new Pieces()
}

/** A stream is scanned in pieces of this many bytes, cut at a line's end where there is one. */
const PIECE = 1 << 16
const MOST_SEEN = 100_000

/** Cuts what is read into pieces, and has each swept with all that is encoded in it. */
class Pieces implements Scanner {
  readonly #layers: Layers
  readonly #findings: Findings

  constructor(key?: FingerprintKey, wanted: Iterable<Wanted> = []) {
    this.#layers = new Layers((bytes, from, to, depth) => sweep.read(bytes, from, to, depth))
    this.#findings = new Findings(this.#layers, key, [...wanted])
    const sweep = new Sweep(this.#layers, this.#findings)
  }

  get cutShort(): number {
    return this.#layers.cutShort
  }

  scan(text: string | Uint8Array): Hit[] {
    const bytes = plainArray(typeof text === 'string' ? Buffer.from(text) : text)
    const hits = this.#findings.collect()
    this.#findings.forget()
    for (let from = 0; from < bytes.length; ) {
      const to = bytes.length - from <= 2 * PIECE ? bytes.length : cut(bytes, from, from + PIECE)
      this.#layers.piece(bytes.subarray(from, to), from)
      from = to === bytes.length ? to : goOn(bytes, from, to)
    }
    return hits
  }

  async *stream(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Hit> {
    let held: Uint8Array = new Uint8Array(4 * PIECE)
    let length = 0
    let base = 0
    this.#findings.forget()
    for await (const chunk of chunks) {
      if (length + chunk.length > held.length) {
        const larger = new Uint8Array(2 * (length + chunk.length))
        larger.set(held.subarray(0, length))
        held = larger
      }
      held.set(chunk, length)
      length += chunk.length
      let from = 0
      while (length - from >= 2 * PIECE) {
        const to = cut(held, from, from + PIECE)
        const hits = this.#findings.collect()
        this.#layers.piece(held.subarray(from, to), base + from)
        yield* hits
        from = goOn(held, from, to)
        // A line that has passed is not met again.
        if (from === to || this.#findings.seen > MOST_SEEN) this.#findings.forget()
      }
      held.copyWithin(0, from, length)
      length -= from
      base += from
    }
    const hits = this.#findings.collect()
    this.#layers.piece(held.subarray(0, length), base)
    yield* hits
  }
}

/**
 * Where to cut a piece: after its last line, or within it when the line is longer. A piece is always more than two of them
 * share, or the next one would begin where it did.
 */
function cut(bytes: Uint8Array, from: number, to: number): number {
  const line = bytes.lastIndexOf(NEWLINE, to - 1)
  return line > from + SHARED ? line + 1 : to
}

/**
 * Where the next piece begins: some lines back where the last one may go on, since it is no whole line, or ends as those do
 * that MIME breaks.
 */
function goOn(bytes: Uint8Array, from: number, to: number): number {
  const last = bytes[to - 2] === 0x0d ? bytes[to - 3]! : bytes[to - 2]!
  if (bytes[to - 1] === NEWLINE && last !== 0x3d && BASE64[last] === 255) return to
  const line = bytes.lastIndexOf(NEWLINE, to - SHARED)
  return line > from ? line + 1 : to - SHARED
}
