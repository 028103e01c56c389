import { domainToUnicode } from 'node:url'
import {
  type Characters,
  characters,
  DIGIT,
  foldOf,
  foldText,
  IGNORED,
  kindOf,
  LETTER,
  latinOf,
  SEPARATOR,
} from './characters.ts'
import {
  BASE64,
  type Decoded,
  decodeBase64,
  decodeHex,
  decodeList,
  decodeUtf16,
  decompress,
  HEX,
  plainArray,
  quadIsText,
  textSize,
  undoEscapes,
  undoMojibake,
} from './decode.ts'
import {
  BASE32_KINDS,
  BASE85_KINDS,
  beginsAsText,
  decodeBase32,
  decodeBase85,
  decodeDump,
  decodeEncodedWords,
  decodeFigures,
  decodeHexWords,
  decodeIndexed,
  decodeMarked,
  decodeSemiOctets,
  decodeUtf32,
  decodeUu,
  decompressBare,
  goesOn,
  isDumpLine,
  isUuLine,
  joinHalves,
  joinParts,
  joinStrings,
  mayBeBare,
  mayBeCompressed,
  reverse,
  SHORTEST_BASE32,
  tagEnd,
  undoCodePoints,
  undoTags,
} from './decode-rare.ts'
import { DIAL, fieldBefore, labelBefore, PART, PHONE, RECORD } from './field-name.ts'
import {
  type FingerprintKey,
  proofOf,
  readFingerprint,
  SHORTEST_TAIL,
  tagNumber,
  tagTail,
  tagUnits,
} from './fingerprint.ts'
import {
  type Canonical,
  type Form,
  LONGEST,
  LONGEST_NUMBER,
  NUMBER_DIGITS,
  phoneReadings,
} from './identifier.ts'
import { TagTable } from './tag-table.ts'

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
  return new Pass(key, wanted)
}

/**
 * Finds whatever looks like a phone number, an e-mail address or an e-Tazkira's number, anybody's, in the same encodings.
 * Hits have no subject.
 */
export function openPatternScanner(): Scanner {
  return new Pass()
}

const DEEPEST = 6
/** A stream is scanned in pieces of this many bytes, cut at a line's end where there is one. */
const PIECE = 1 << 16
/** What two pieces share where a line goes on in the next: more than an identifier in any encoding. */
const SHARED = 2048
const MOST_SEEN = 100_000
const SHORTEST_RUN = 12
/** Base64 digits of a line after which it may go on in the next. */
const SHORTEST_WRAP = 20
/** Bytes from the end of a line of base64 to the next line of it. */
const WIDEST_INDENT = 20
const SHORTEST_HEX = 18
/** Bytes of text that an encoding must hold to be looked into. */
const SHORTEST_TEXT = 9
/** Bytes from one sign between two pairs of a list to the next. */
const SHORTEST_PAIR = 3
const LONGEST_PAIR = 9
/** From one sign to the next: `30373030 `. */
const WORD = 9
/** `0x30373030` */
const MARKED_WORD = 10
const LONGEST_BYTE = 4
const PROBE_LISTS = 16
/** Base85 digits of nine bytes, and how far from a word's begin its first sign is looked for. */
const SHORTEST_BASE85 = 12
const FARTHEST_SIGN = 48
const UNCOMPRESSED = 1 << 22
/** What gzip begins with (RFC 1952). */
const GZIP = Buffer.from([0x1f, 0x8b, 8])
/** What a file in a ZIP begins with, as in an office document. */
const ZIP = Buffer.from('PK\x03\x04')

interface PartOfNumber {
  meaning: number
  digits: string
  end: number
}

class Pass implements Scanner {
  cutShort = 0
  readonly #key: FingerprintKey | undefined
  readonly #table: Characters
  readonly #tags: TagTable
  readonly #wanted: { subject: string; kind: string; form: Form; proof: Buffer }[] = []
  readonly #labelledLengths = new Uint8Array(NUMBER_DIGITS)
  /** Of the digits that words end with. */
  readonly #tailLengths = new Uint8Array(NUMBER_DIGITS + 1)
  readonly #wordBegins = new Int32Array(4)
  readonly #wordPlaces = new Int32Array(4)
  readonly #wordFigures = new Int32Array(4)
  /** Of words and names. */
  readonly #shapes = new Uint8Array(1 << 16)
  readonly #has = {
    labelled: false,
    tails: false,
    addresses: false,
    words: false,
    names: false,
  }

  // The number under way: its digits, and of each group its first digit and its place.
  readonly #digits = new Uint8Array(1024)
  readonly #groupFirst = new Int32Array(256)
  readonly #groupAt = new Int32Array(256)
  readonly #groupEnd = new Int32Array(256)
  readonly #units = new Uint16Array(8192)
  readonly #scratch: Decoded[] = Array.from({ length: DEEPEST + 2 }, () => ({
    bytes: new Uint8Array(0),
    length: 0,
  }))
  readonly #partsOfNames: { letters: Uint16Array; at: number }[] = []
  readonly #parts: PartOfNumber[][] = Array.from({ length: DEEPEST + 2 }, () => [])

  #top: Uint8Array = new Uint8Array(0)
  #base = 0
  #origin = 0
  #budget = 0
  readonly #path: string[] = []
  readonly #cut = () => {
    this.cutShort += 1
  }
  #hits: Hit[] = []
  readonly #seen = new Set<string>()

  constructor(key?: FingerprintKey, wanted: Iterable<Wanted> = []) {
    this.#key = key
    this.#table = characters()
    const all = [...wanted]
    this.#tags = new TagTable(key === undefined ? PATTERNS.length : all.length)
    if (key === undefined) {
      this.#has.addresses = true
      for (const { kind } of PATTERNS)
        this.#wanted.push({ subject: '', kind, form: 'number', proof: Buffer.from(kind) })
    }
    for (const { subject, kind, fingerprint } of all) {
      const { form, length, digits, tail, low, high, proof } = readFingerprint(fingerprint)
      this.#tags.add(low, high, this.#wanted.length)
      this.#wanted.push({ subject, kind, form, proof })
      if (form === 'labelled') {
        this.#labelledLengths[length] = 1
        this.#has.labelled = true
      }
      if (form === 'word' || form === 'name') this.#shapes[shapeOf(length, digits)] = 1
      if (tail > 0) {
        this.#tailLengths[tail] = 1
        this.#has.tails = true
      } else if (form === 'word') this.#has.words = true
      else if (form === 'name') this.#has.names = true
      else if (form === 'e-mail') this.#has.addresses = true
    }
  }

  scan(text: string | Uint8Array): Hit[] {
    const bytes = plainArray(typeof text === 'string' ? Buffer.from(text) : text)
    this.#hits = []
    this.#seen.clear()
    for (let from = 0; from < bytes.length; ) {
      const to = bytes.length - from <= 2 * PIECE ? bytes.length : cut(bytes, from, from + PIECE)
      this.#piece(bytes.subarray(from, to), from)
      from = to === bytes.length ? to : goOn(bytes, from, to)
    }
    return this.#hits
  }

  async *stream(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Hit> {
    let held: Uint8Array = new Uint8Array(4 * PIECE)
    let length = 0
    let base = 0
    this.#seen.clear()
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
        this.#hits = []
        this.#piece(held.subarray(from, to), base + from)
        yield* this.#hits
        from = goOn(held, from, to)
        // A line that has passed is not met again.
        if (from === to || this.#seen.size > MOST_SEEN) this.#seen.clear()
      }
      held.copyWithin(0, from, length)
      length -= from
      base += from
    }
    this.#hits = []
    this.#piece(held.subarray(0, length), base)
    yield* this.#hits
  }

  #piece(bytes: Uint8Array, base: number): void {
    this.#top = bytes
    this.#base = base
    this.#budget = 64 * bytes.length + (1 << 20)
    this.#files('gzip', GZIP, bytes, 0, 0)
    this.#files('zip', ZIP, bytes, 0, 0)
    this.#pass(bytes, 0, bytes.length, 0)
  }

  /** Compressed files in what is read, wherever they begin. `place` is where it lay, when it was decoded. */
  #files(encoding: string, head: Buffer, bytes: Uint8Array, depth: number, place: number): void {
    const searched = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
    for (let at = searched.indexOf(head); at >= 0; at = searched.indexOf(head, at + 1)) {
      const plain = decompress(bytes.subarray(at), UNCOMPRESSED, this.#cut)
      if (plain) this.#within(encoding, plain, 0, plain.length, depth, depth === 0 ? at : place)
    }
  }

  /** Passes over what was decoded. `at` is where it lay, at depth 0. */
  #within(encoding: string, bytes: Uint8Array, from: number, to: number, depth: number, at: number): void {
    this.#budget -= to - from
    if (depth >= DEEPEST || this.#budget < 0) {
      this.cutShort += 1
      return
    }
    if (depth === 0) this.#origin = at
    this.#path.push(encoding)
    this.#pass(bytes, from, to, depth + 1)
    this.#path.pop()
  }

  #pass(bytes: Uint8Array, from: number, to: number, depth: number): void {
    this.#parts[depth]!.length = 0
    // Escapes leave words as they are, and what chance decodes to is short.
    const isProse = depth === 0 || (to - from >= SHORTEST_PROSE && this.#path.at(-1) !== 'escapes')
    if (isProse && this.#has.addresses && this.#key !== undefined) this.#saidAddresses(bytes, from, to, depth)
    this.#characters(bytes, from, to, depth)
    this.#runs(bytes, from, to, depth)
    this.#lists(bytes, from, to, depth)
    if (this.#has.words || this.#has.names) this.#words(bytes, from, to, depth)
  }

  /** Numbers, addresses and escapes. */
  #characters(bytes: Uint8Array, from: number, to: number, depth: number): void {
    const { addresses } = this.#has
    let at = from
    let line = from
    let escapes = 0
    let quoted = 0
    let halves = 0
    let firstHalf = 0
    let lastHalf = 0
    let mojibake = 0
    let firstTag = -1
    let lastTag = 0
    let signedTo = from
    let blockTo = from
    while (at < to) {
      const byte = bytes[at]!
      const sort = SORT[byte]!
      if (sort === PLAIN) {
        at++
        continue
      }
      switch (sort) {
        case FIGURE:
          at = this.#number(bytes, at, from, to, depth)
          break
        case LEAD: {
          const codePoint = codePointAt(bytes, at, to)
          const kind = kindOf(this.#table, codePoint)
          if (kind === DIGIT) {
            at = this.#number(bytes, at, from, to, depth)
            break
          }
          if (codePoint === OVERRIDE) this.#reversed(bytes, at + 3, to, depth)
          if (codePoint === 0xff20 || codePoint === 0xfe6b) this.#address(bytes, at, at + 3, from, to, depth)
          if (byte === 0xc3 && MOJIBAKE.has(bytes[at + 1]!)) mojibake++
          else if (byte === 0xda && bytes[at - 1] === 0x78) this.#zlib(bytes, at - 1, to, depth)
          at += sizeOf(codePoint)
          break
        }
        case TAG: {
          const end = tagEnd(bytes, at, to)
          if (end > 0) {
            if (firstTag < 0) firstTag = at
            lastTag = end
          }
          if (bytes[at + 1] === 0x7e) this.#base85(bytes, at + 2, Math.min(to, at + SHARED), depth)
          else if (at >= signedTo) signedTo = this.#signed(bytes, at, from, to, depth)
          at++
          break
        }
        case JOINT:
          this.#joint(bytes, at, from, to, depth)
          at++
          break
        case SIGN:
          if (at >= signedTo) signedTo = this.#signed(bytes, at, from, to, depth)
          at++
          break
        case NAMED:
          if (addresses && endsDomain(bytes, at)) this.#splitAddress(bytes, at + 1, from, to, depth)
          at++
          break
        case ZLIB:
          if (bytes[at - 1] === 0x78) this.#zlib(bytes, at - 1, to, depth)
          at++
          break
        case AT_SIGN:
          if (addresses) this.#address(bytes, at, at + 1, from, to, depth)
          at++
          break
        case HALF:
          if (halves > 0 && at - lastHalf > FARTHEST_HALF) {
            this.#wide(bytes, firstHalf, lastHalf, from, to, halves, depth)
            halves = 0
          }
          if (halves === 0) firstHalf = at
          lastHalf = at
          halves++
          at++
          break
        case LINE_END:
          if (bytes[at - 1] === 0x3d || (bytes[at - 1] === 0x0d && bytes[at - 2] === 0x3d)) {
            // A soft line break of quoted-printable: the line goes on.
            quoted++
            at++
            break
          }
          if (escapes + quoted + mojibake > 0) this.#line(bytes, line, at, depth, escapes, quoted, mojibake)
          if (firstTag >= 0) this.#tagged(bytes, firstTag, lastTag, line, at, depth)
          if (at >= blockTo) blockTo = this.#block(bytes, line, at, to, depth)
          this.#broken(bytes, at, line, to, depth)
          firstTag = -1
          escapes = 0
          quoted = 0
          mojibake = 0
          at++
          line = at
          break
        default:
          if (isEscape(bytes, at, to)) escapes++
          else if (isQuoted(bytes, at)) quoted++
          else if (byte === 0x3d && addresses && endsDomain(bytes, at))
            this.#splitAddress(bytes, at + 1, from, to, depth)
          at++
      }
    }
    if (escapes + quoted + mojibake > 0) this.#line(bytes, line, to, depth, escapes, quoted, mojibake)
    if (firstTag >= 0) this.#tagged(bytes, firstTag, lastTag, line, to, depth)
    this.#wide(bytes, firstHalf, lastHalf, from, to, halves, depth)
  }

  /** Text that is stored from its end on, and shown in order by a mark before it. */
  #reversed(bytes: Uint8Array, from: number, to: number, depth: number): void {
    let end = from
    while (end < to && end < from + SHARED && bytes[end] !== NEWLINE) end++
    const into = this.#scratch[depth + 1]!
    reverse(bytes, from, end, into)
    this.#within('reversed', into.bytes, 0, into.length, depth, from)
  }

  /** UTF-16, told by the halves that all its characters of one script have. */
  #wide(
    bytes: Uint8Array,
    firstHalf: number,
    lastHalf: number,
    from: number,
    to: number,
    halves: number,
    depth: number,
  ): void {
    if (halves < SHORTEST_TEXT - 1) return
    const [start, end] = [Math.max(from, firstHalf - 2), Math.min(to, lastHalf + 3)]
    const into = this.#scratch[depth + 1]!
    for (const bigEndian of [false, true]) {
      for (const odd of [0, 1]) {
        decodeUtf16(bytes, start + odd, end, bigEndian, into)
        this.#within('utf-16', into.bytes, 0, into.length, depth, firstHalf)
      }
    }
    // Three halves a character.
    if (3 * halves < 2 * (end - start)) return
    for (const bigEndian of [false, true]) {
      for (let shift = 0; shift < 4; shift++) {
        decodeUtf32(bytes, start + shift, end, bigEndian, into)
        this.#within('utf-32', into.bytes, 0, into.length, depth, firstHalf)
      }
    }
  }

  /** What begins like zlib (RFC 1950), among other bytes. */
  #zlib(bytes: Uint8Array, at: number, to: number, depth: number): void {
    const plain = decompress(bytes.subarray(at, to), UNCOMPRESSED, this.#cut)
    if (plain) this.#within('zlib', plain, 0, plain.length, depth, at)
  }

  /** The text around tags of HTML or XML, without them: a number may go on behind one. */
  #tagged(bytes: Uint8Array, first: number, last: number, from: number, to: number, depth: number): void {
    const into = this.#scratch[depth + 1]!
    undoTags(bytes, Math.max(from, first - LONGEST), Math.min(to, last + LONGEST), into)
    this.#within('tags', into.bytes, 0, into.length, depth, first)
  }

  /** A number or an address that goes on in the next line, behind what quotes or indents it. `at` is where the line ends. */
  #broken(bytes: Uint8Array, at: number, line: number, to: number, depth: number): void {
    let end = at
    while (end > line && end > at - 4 && ENDS_LINE[bytes[end - 1]!] === 1) end--
    if (IN_ADDRESS[bytes[end - 1]!] === 0 && bytes[end - 1] !== AT) return
    let next = at + 1
    while (next < to && next < at + WIDEST_INDENT && INDENTS[bytes[next]!] === 1) next++
    if (next >= to) return
    const isNumber = mayBeDigit(bytes[end - 1]!) && (isFigure(bytes[next]) || bytes[next]! >= 0xc2)
    if (!isNumber && !(this.#has.addresses && this.#isAddressed(bytes, end, line, next, to))) return
    const start = Math.max(line, end - LONGEST)
    const past = Math.min(to, next + LONGEST)
    let stop = next
    while (stop < past && bytes[stop] !== NEWLINE) stop++
    // A column of figures goes on in every line.
    if (isNumber && !hasWords(bytes, start, end) && !hasWords(bytes, next, stop)) return
    const into = this.#scratch[depth + 1]!
    joinHalves(bytes, start, end, next, stop, isNumber, into)
    this.#within('line break', into.bytes, 0, into.length, depth, start)
  }

  /** Whether an address may go on from `end` to `next`: on one side of the break its @ stands in the same word. */
  #isAddressed(bytes: Uint8Array, end: number, line: number, next: number, to: number): boolean {
    const first = Math.max(line, end - LONGEST)
    let at = end - 1
    while (at > first && IN_ADDRESS[bytes[at]!] !== 0) at--
    if (bytes[at] === AT) return true
    const last = Math.min(to, next + LONGEST)
    for (at = next; at < last && IN_ADDRESS[bytes[at]!] !== 0; ) at++
    return bytes[at] === AT
  }

  /** Parts that an array, a program's operator or a bracket keeps apart. */
  #joint(bytes: Uint8Array, at: number, from: number, to: number, depth: number): void {
    const byte = bytes[at]!
    const into = this.#scratch[depth + 1]!
    into.length = 0
    if ((byte === 0x5b || byte === 0x28) && this.#has.addresses)
      this.#spokenAddress(bytes, at, from, to, depth)
    if (byte === 0x5b) {
      const next = bytes[at + 1]
      if (next === 0x22 || next === 0x27 || next === 0x28 || next === 0x5c || next === 0x20 || next === 10)
        joinParts(bytes, at, from, to, into)
    } else if (byte === 0x2b || byte === 0x7c) joinStrings(bytes, at, from, to, into)
    if (into.length >= SHORTEST_TEXT) this.#within('parts', into.bytes, 0, into.length, depth, at)
  }

  /** Lines that are one file: uuencoded, after the one that ends at `at`, or dumped in hex, from `line` on. Returns where they end. */
  #block(bytes: Uint8Array, line: number, at: number, to: number, depth: number): number {
    const into = this.#scratch[depth + 1]!
    if (isUuLine(bytes, at + 1, to)) {
      const end = decodeUu(bytes, at + 1, to, into)
      this.#stretches('uuencode', into, depth, at)
      return end
    }
    if (!isDumpLine(bytes, line, at)) return at
    const end = decodeDump(bytes, line, to, into)
    this.#stretches('hex', into, depth, line)
    return end
  }

  /** Base85, in a word with signs that words of people do not have. Returns where the word ends. */
  #signed(bytes: Uint8Array, at: number, from: number, to: number, depth: number): number {
    if (bytes[at] === 0x3f && bytes[at - 1] === 0x3d) this.#encodedWords(bytes, at - 1, from, to, depth)
    let start = at
    const first = Math.max(from, at - FARTHEST_SIGN)
    while (start > first && IN_BASE85[bytes[start - 1]!] !== 0) start--
    let end = at + 1
    while (end < to && IN_BASE85[bytes[end]!] !== 0) end++
    if (end - start < SHORTEST_BASE85) return end
    this.#base85(bytes, start, end, depth)
    // `key=…`, `key:…`, `<~…~>`
    for (let place = start, keys = 0; place < start + FARTHEST_SIGN && keys < 2; place++) {
      if (OPENS_VALUE[bytes[place]!] === 0) continue
      keys++
      this.#base85(bytes, place + 1, end, depth)
    }
    return end
  }

  #base85(bytes: Uint8Array, from: number, to: number, depth: number): void {
    const into = this.#scratch[depth + 1]!
    for (let kind = 0; kind < BASE85_KINDS && to - from >= SHORTEST_BASE85; kind++)
      if (decodeBase85(kind, bytes, from, to, into)) this.#stretches('base85', into, depth, from)
  }

  /** Encoded words of a mail's head, from the first of them on. */
  #encodedWords(bytes: Uint8Array, at: number, from: number, to: number, depth: number): void {
    let before = at - 1
    while (before > from && before > at - 4 && INDENTS[bytes[before]!] === 1) before--
    while (before > from && before > at - 6 && (bytes[before] === NEWLINE || bytes[before] === 13)) before--
    if (bytes[before] === 0x3d && bytes[before - 1] === 0x3f) return
    const into = this.#scratch[depth + 1]!
    decodeEncodedWords(bytes, at, to, into)
    if (into.length >= SHORTEST_TEXT) this.#stretches('encoded words', into, depth, at)
  }

  #line(
    bytes: Uint8Array,
    from: number,
    to: number,
    depth: number,
    escapes: number,
    quoted: number,
    mojibake: number,
  ): void {
    const into = this.#scratch[depth + 1]!
    if (escapes > 0 && undoEscapes(bytes, from, to, false, into)) {
      this.#within('escapes', into.bytes, 0, into.length, depth, from)
    }
    if (quoted > 0 && undoEscapes(bytes, from, to, true, into)) {
      this.#within('quoted-printable', into.bytes, 0, into.length, depth, from)
    }
    if (escapes >= SHORTEST_TEXT && undoCodePoints(bytes, from, to, into)) {
      this.#within('escapes', into.bytes, 0, into.length, depth, from)
    }
    if (mojibake > 0) {
      undoMojibake(bytes, from, to, into)
      this.#within('mojibake', into.bytes, 0, into.length, depth, from)
    }
  }

  /** A number from its first digit; returns where it ends. */
  #number(bytes: Uint8Array, start: number, from: number, to: number, depth: number): number {
    // Most numbers are short, of ASCII digits, and in no field that we know: those are only counted.
    let count = 0
    let gap = 0
    let end = start
    let plain = true
    for (let at = start; at < to; at++) {
      const byte = bytes[at]!
      if (byte >= 0x30 && byte <= 0x39) {
        count++
        gap = 0
        end = at + 1
      } else if (byte < 0x80) {
        if (SEPARATES[byte] === 0 || ++gap > WIDEST_GAP) break
      } else {
        plain = byte < 0xc2
        break
      }
    }
    if (count === 1 && bytes[start] === 0x30) {
      const opens = bytes[start - 2] === 0x5c ? bytes[start - 3] : bytes[start - 2]
      if (bytes[start - 1] === 0x22 && opens === 0x7b) this.#indexed(bytes, start, to, depth)
      else if (MARKS[bytes[start + 1]!] === 1) {
        if (bytes[start + 1] === 0x78) this.#hexNumber(bytes, start + 2, to, depth)
        this.#marked(bytes, start, from, to, depth)
      }
    }
    const meaning = fieldBefore(bytes, start, from)
    const previous = this.#parts[depth]!.at(-1)
    const near = previous !== undefined && start - previous.end <= 6
    if (
      !plain ||
      count >= NUMBER_DIGITS ||
      meaning !== 0 ||
      near ||
      this.#has.labelled ||
      (this.#has.tails && count >= SHORTEST_TAIL)
    ) {
      end = this.#groups(bytes, start, from, to, depth, meaning)
    }
    return end
  }

  /** A number with all its groups. */
  #groups(
    bytes: Uint8Array,
    start: number,
    from: number,
    to: number,
    depth: number,
    meaning: number,
  ): number {
    const digits = this.#digits
    let count = 0
    let groups = 0
    let tail = 0
    let at = start
    let end = start
    while (true) {
      this.#groupFirst[groups] = count
      this.#groupAt[groups] = at
      while (at < to) {
        const byte = bytes[at]!
        let digit = byte - 0x30
        let size = 1
        if (byte >= 0xc2) {
          const codePoint = codePointAt(bytes, at, to)
          const kind = kindOf(this.#table, codePoint)
          if (kind === IGNORED) {
            at += sizeOf(codePoint)
            continue
          }
          if (kind !== DIGIT) break
          digit = foldOf(this.#table, codePoint)
          size = sizeOf(codePoint)
        } else if (digit < 0 || digit > 9) break
        at += size
        end = at
        digits[count++] = digit
        tail = (tail % 100_000_000) * 10 + digit
        // Of a number longer than any identifier only the length matters.
        if (count === digits.length) count--
      }
      this.#groupEnd[groups] = end
      groups++
      if (count >= NUMBER_DIGITS) {
        const found = this.#numberFound(NUMBER_DIGITS, tail)
        if (found >= 0) {
          this.#prove(bytes, found, count, groups, from, to, depth)
          this.#wordWith(bytes, found, end, from, to, depth)
        }
      }
      if (this.#has.tails) this.#tails(bytes, count, groups, end, from, to, depth)
      const next = skipSeparators(this.#table, bytes, end, to)
      if (next === end || next >= to || !isDigit(this.#table, bytes, next, to)) break
      at = next
      if (groups < this.#groupAt.length - 1 && count < digits.length / 2) continue
      // A long table of figures: an identifier lies within the last few groups.
      const first = Math.max(0, groups - LONGEST_NUMBER)
      const dropped = this.#groupFirst[first]!
      digits.copyWithin(0, dropped, count)
      count -= dropped
      groups -= first
      for (let group = 0; group < groups; group++) {
        this.#groupFirst[group] = this.#groupFirst[group + first]! - dropped
        this.#groupAt[group] = this.#groupAt[group + first]!
        this.#groupEnd[group] = this.#groupEnd[group + first]!
      }
    }
    if (count <= LONGEST_NUMBER) this.#named(bytes, start, end, count, groups, from, depth, meaning)
    if (groups >= SHORTEST_TEXT || count >= 3 * SHORTEST_TEXT) {
      const into = this.#scratch[depth + 1]!
      if (decodeList(bytes, start, to, false, into) > start)
        this.#decoded('list of bytes', into, depth, start)
      decodeFigures(digits, count, (decoded) => this.#stretches('figures', decoded, depth, start), into)
    }
    return end
  }

  /** `{"0":48,"1":55,…}` */
  #indexed(bytes: Uint8Array, at: number, to: number, depth: number): void {
    const into = this.#scratch[depth + 1]!
    decodeIndexed(bytes, at, to, into)
    if (into.length >= SHORTEST_TEXT) this.#decoded('list of bytes', into, depth, at)
  }

  /** `0x30373030 0x31323334`, `0b00110000, …` and `0o60, …`, from the first of them on. */
  #marked(bytes: Uint8Array, at: number, from: number, to: number, depth: number): void {
    if (goesOn(bytes, at, from)) return
    const into = this.#scratch[depth + 1]!
    const end =
      (bytes[at + 1]! | 0x20) === 0x78
        ? decodeHexWords(bytes, at, to, into)
        : decodeMarked(bytes, at, to, into)
    if (end > at + MARKED_WORD && beginsAsText(into)) this.#stretches('hex', into, depth, at)
  }

  /** A whole phone number with its country's code as one number in hex; shorter ones would be anything. */
  #hexNumber(bytes: Uint8Array, at: number, to: number, depth: number): void {
    let value = 0
    let end = at
    while (end < to && end < at + 13 && HEX[bytes[end]!] !== 255) value = value * 16 + HEX[bytes[end++]!]!
    if (end - at < 9 || end - at > 12 || this.#key === undefined) return
    const canonical = { form: 'international', value: String(value) } as const
    const found = this.#numberFound(NUMBER_DIGITS, value % 10 ** NUMBER_DIGITS)
    const index = found < 0 ? -1 : this.#proved(found, canonical)
    if (index >= 0) this.#hit(index, depth, at)
  }

  /** Hex digits in a list: `DB B0 DB B7`, `30:37`, `0x30, 0x37`, `U+06F0 U+06F7`. */
  #lists(bytes: Uint8Array, from: number, to: number, depth: number): void {
    const into = this.#scratch[depth + 1]!
    // Every list of nine pairs holds three signs at one distance from a place that is looked at here.
    for (let probe = from; probe + 3 * SHORTEST_PAIR < to; probe += PROBE_LISTS) {
      for (let at = probe; at < probe + LONGEST_PAIR; at++) {
        const joint = bytes[at]!
        if (PAIR_JOINT[joint] === 0 || HEX[bytes[at - 1]!] === 255) continue
        if ((IN_PAIR[bytes[at + 1]!]! | PAIR_JOINT[bytes[at + 1]!]!) === 0) break
        let period = SHORTEST_PAIR
        while (period <= LONGEST_PAIR && !(bytes[at + period] === joint && bytes[at + 2 * period] === joint))
          period++
        if (period > LONGEST_PAIR) {
          // Of ten or twelve bytes there are three words, and two signs between them; either may be met first.
          const sign = bytes[at + WORD] === joint ? at : bytes[at - WORD] === joint ? at - WORD : 0
          if (sign > from && HEX[bytes[sign - 8]!] !== 255 && HEX[bytes[sign + WORD - 1]!] !== 255)
            probe = Math.max(probe, this.#threeWords(bytes, sign, from, to, depth) - PROBE_LISTS)
          break
        }
        if (HEX[bytes[at + period - 1]!] === 255) break
        let first = at
        while (
          first - period > from &&
          bytes[first - period] === joint &&
          HEX[bytes[first - period - 1]!] !== 255
        )
          first -= period
        let start = first
        while (start > from && start > first - LONGEST_PAIR && IN_PAIR[bytes[start - 1]!] === 1) start--
        for (const begin of start === first + 1 ? [start] : [start, first + 1]) {
          const past = decodeList(bytes, begin, to, true, into)
          if (past > begin) this.#stretches('hex', into, depth, begin)
          const end = period > LONGEST_BYTE ? decodeHexWords(bytes, begin, to, into) : begin
          if (end > begin && beginsAsText(into)) this.#stretches('hex', into, depth, begin)
          probe = Math.max(probe, past - PROBE_LISTS, end - PROBE_LISTS)
          if (past > begin) break
        }
        break
      }
    }
  }

  /** `30373030 31323334 3536`, whose first sign is at `at`; returns where they end, or 0. */
  #threeWords(bytes: Uint8Array, at: number, from: number, to: number, depth: number): number {
    const start = at + 1 - WORD
    const into = this.#scratch[depth + 1]!
    const end = start < from ? 0 : decodeHexWords(bytes, start, to, into)
    if (end <= at + WORD || !beginsAsText(into)) return 0
    this.#stretches('hex', into, depth, start)
    return end
  }

  /** Words that end with these figures: by the last group, or the last few together. */
  #tails(
    bytes: Uint8Array,
    count: number,
    groups: number,
    end: number,
    from: number,
    to: number,
    depth: number,
  ): void {
    const key = this.#key!
    for (let first = groups - 1; first >= 0; first--) {
      const length = count - this.#groupFirst[first]!
      if (length >= NUMBER_DIGITS) return
      if (this.#tailLengths[length] === 0) continue
      let value = 0
      for (let at = this.#groupFirst[first]!; at < count; at++) value = value * 10 + this.#digits[at]!
      tagTail(key.sip, length, value)
      const found = this.#tags.find(key.sip.low, key.sip.high)
      if (found >= 0) this.#wordWith(bytes, found, end, from, to, depth)
    }
  }

  /** Looks at the last words before `end` when what was found by its last digits may be a word. */
  #wordWith(bytes: Uint8Array, found: number, end: number, from: number, to: number, depth: number): void {
    let index = found
    while (index >= 0 && this.#wanted[index]!.form !== 'word') index = this.#tags.next(index)
    if (index < 0 || (end < to && bytes[end]! < 0x80 && ASCII_WORD[bytes[end]!] !== 0)) return
    let start = end
    for (let word = 0; word < 4; word++) {
      let at = start
      for (let gap = 0; gap < FARTHEST_WORD && at > from && ASCII_WORD[bytes[at - 1]!] === 0; gap++) at--
      const past = at
      while (at > from && past - at < LONGEST && ASCII_WORD[bytes[at - 1]!] !== 0) at--
      if (at === past) break
      start = at
    }
    this.#words(bytes, start, end, depth)
  }

  /** Passes over the stretches of text in what was decoded. */
  #stretches(encoding: string, { bytes, length }: Decoded, depth: number, at: number): void {
    let from = 0
    for (let place = 0; place <= length; ) {
      const size = place < length ? textSize(bytes, place, length) : 0
      if (size > 0) {
        place += size
        continue
      }
      if (place - from >= SHORTEST_TEXT) this.#within(encoding, bytes, from, place, depth, at)
      from = ++place
    }
  }

  /** A number whose last nine digits are somebody's: which of its groups are an identifier, and are they meant as one? */
  #prove(
    bytes: Uint8Array,
    found: number,
    count: number,
    groups: number,
    from: number,
    to: number,
    depth: number,
  ): void {
    const last = groups - 1
    for (let first = last; first >= 0; first--) {
      const length = count - this.#groupFirst[first]!
      if (length > LONGEST_NUMBER) return
      if (length < NUMBER_DIGITS) continue
      const written = this.#digits.subarray(this.#groupFirst[first]!, count).join('')
      for (const canonical of readingsOf(written)) {
        const index = this.#proved(found, canonical)
        if (index < 0 || !this.#meant(bytes, first, last, written, canonical.form, from, to)) continue
        this.#hit(index, depth, this.#groupAt[first]!)
        return
      }
    }
  }

  /** Whether the groups are written as an identifier is: not as a float, a time, a column of other figures. */
  #meant(
    bytes: Uint8Array,
    first: number,
    last: number,
    written: string,
    form: Form,
    from: number,
    to: number,
  ): boolean {
    const [start, end] = [this.#groupAt[first]!, this.#groupEnd[last]!]
    if (isHexOfId(bytes, start, end, from, to)) return false
    // Nobody's number in particular: other ids look like one now and then.
    const isAnybodys = this.#key === undefined
    if (isAnybodys && (ASCII_WORD[bytes[start - 1]!] || (end < to && ASCII_WORD[bytes[end]!]))) return false
    const sizeAt = (group: number) =>
      group === last
        ? this.#digitsIn(first, written, group)
        : this.#groupFirst[group + 1]! - this.#groupFirst[group]!
    const gaps = { dots: 0, columns: 0, others: 0 }
    for (let group = first; group < last; group++) {
      const gap = bytes.subarray(this.#groupEnd[group]!, this.#groupAt[group + 1]!)
      if (gap.some(isColumn)) gaps.columns++
      else if (gap.length === 1 && gap[0] === 0x2e) gaps.dots++
      else gaps.others++
    }
    // 15:41:03
    if (bytes[end] === COLON && isFigure(bytes[end + 1]) && sizeAt(last) === 2) return false
    if (bytes[start - 1] === COLON && isFigure(bytes[start - 2]) && sizeAt(first) === 2) return false
    const abroad = written.startsWith('00') || plusBefore(bytes, start, from)
    if (abroad) return true
    const trunk = written.startsWith('0')
    const firstSize = sizeAt(first)
    // 0.712345678 and 0,712345678; 93.700123456 may be a share in percent.
    const loose = gaps.columns > 0 || gaps.dots > 0
    const isFigureByFigure = last - first + 1 === written.length
    if (
      trunk &&
      firstSize === 1 &&
      form !== 'number' &&
      !isFigureByFigure &&
      isLoose(bytes[this.#groupEnd[first]!])
    )
      return false
    const isScientific = gaps.dots === 1 && firstSize === 1 && hasExponent(bytes, end, written.length - 1)
    if (!trunk && gaps.dots === 1 && last - first === 1 && firstSize <= 3 && !isScientific) return false
    if (trunk || form === 'international') return true
    // Of ten digits the seconds since 1970 alone are met everywhere.
    if (form === 'number' && written.length >= 10 && (last > first || !/^1[5-9]\d{8}$/.test(written)))
      return true
    return this.#bare(bytes, first, last, loose, from, to)
  }

  #digitsIn(first: number, written: string, group: number): number {
    return written.length - (this.#groupFirst[group]! - this.#groupFirst[first]!)
  }

  /** Nine or ten digits with nothing that tells what they are: a name or a label must, or the way they are grouped. */
  #bare(bytes: Uint8Array, first: number, last: number, loose: boolean, from: number, to: number): boolean {
    const [start, end] = [this.#groupAt[first]!, this.#groupEnd[last]!]
    if (start === from && end === to) return true
    // The end of a longer number, as another country's is.
    if (first > 0 && !bytes.subarray(this.#groupEnd[first - 1]!, start).some(isColumn)) return false
    if (((fieldBefore(bytes, start, from) | labelBefore(bytes, start, from)) & (PHONE | RECORD | DIAL)) !== 0)
      return true
    if (last - first >= 2 && !loose) return true
    const [before, after] = [bytes[start - 1]!, bytes[bytes[end] === 0x5c ? end + 1 : end]!]
    if (before !== after || (before !== 0x22 && before !== 0x27)) return false
    let sign = start - 2
    while (sign >= from && (bytes[sign] === 0x20 || bytes[sign] === 0x5c)) sign--
    return sign < from || (bytes[sign] !== COLON && bytes[sign] !== 0x3d)
  }

  /** Numbers that a field's name tells of: too short to stand alone, or split over two fields. */
  #named(
    bytes: Uint8Array,
    start: number,
    end: number,
    count: number,
    groups: number,
    from: number,
    depth: number,
    field: number,
  ): void {
    let meaning = field
    const parts = this.#parts[depth]!
    const previous = parts.at(-1)
    if (
      meaning === 0 &&
      previous !== undefined &&
      start - previous.end <= 6 &&
      listed(bytes, previous.end, start)
    ) {
      meaning = previous.meaning | PART
    }
    if (this.#has.labelled && count < NUMBER_DIGITS) {
      const label = meaning === 0 ? labelBefore(bytes, start, from) : meaning
      if ((label & RECORD) !== 0) this.#labelled(count, groups, depth, start)
    }
    if (meaning === 0) return
    const part = { meaning, digits: this.#digits.subarray(0, count).join(''), end }
    while (parts.length > 0 && start - parts[0]!.end > FARTHEST_FIELD) parts.shift()
    for (const [at, other] of parts.entries()) {
      if (!belong(other.meaning, meaning)) continue
      if (this.#joined(other.digits + part.digits, depth, start)) break
      if (this.#joined(part.digits + other.digits, depth, start)) break
      const third = parts
        .slice(at + 1)
        .find((one) => belong(one.meaning, meaning) || belong(one.meaning, other.meaning))
      if (third && orders(other, third, part).some((digits) => this.#joined(digits, depth, start))) break
    }
    parts.push(part)
    if (parts.length > 8) parts.shift()
  }

  #labelled(count: number, groups: number, depth: number, at: number): void {
    for (let to = 0; to < groups; to++) {
      const length = to === groups - 1 ? count : this.#groupFirst[to + 1]!
      if (length >= NUMBER_DIGITS) return
      if (this.#labelledLengths[length] === 0) continue
      const value = this.#digits.subarray(0, length).join('')
      const found = this.#numberFound(length, Number(value))
      const index = found < 0 ? -1 : this.#proved(found, { form: 'labelled', value })
      if (index >= 0) this.#hit(index, depth, at)
    }
  }

  #joined(written: string, depth: number, at: number): boolean {
    if (written.length < NUMBER_DIGITS || written.length > LONGEST_NUMBER) return false
    const found = this.#numberFound(NUMBER_DIGITS, Number(written.slice(-NUMBER_DIGITS)))
    if (found < 0) return false
    for (const canonical of readingsOf(written)) {
      const index = this.#proved(found, canonical)
      if (index < 0) continue
      this.#hit(index, depth, at)
      return true
    }
    return false
  }

  /** An e-mail address around its @. */
  #address(bytes: Uint8Array, at: number, past: number, from: number, to: number, depth: number): void {
    let start = at
    const first = Math.max(from, at - LONGEST)
    while (start > first && IN_ADDRESS[bytes[start - 1]!] !== 0) start--
    while (start < at && IN_ADDRESS[bytes[start]!] === 2) start++
    let end = past
    const last = Math.min(to, past + LONGEST)
    while (end < last && IN_ADDRESS[bytes[end]!] !== 0 && bytes[end] !== 0x2b && bytes[end] !== 0x25) end++
    while (end > past && IN_ADDRESS[bytes[end - 1]!] === 2) end--
    if (start === at || end === past) this.#looseAddress(bytes, at, past, from, to, depth)
    if (start === at || end === past || end - start > 2 * LONGEST) return
    this.#rewrittenAddress(bytes, start, at, end, from, depth)
    const units = this.#units
    let length = 0
    let tag = -1
    for (let place = start; place < end && length >= 0; place++) {
      const byte = bytes[place]!
      if (byte >= 0x80) length = -1
      else {
        if (byte === 0x2b && tag < 0) tag = length
        units[length++] = byte >= 0x41 && byte <= 0x5a ? byte | 0x20 : byte
      }
    }
    if (length < 0) {
      const text = foldText(
        Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString('utf8'),
      ).replace(/。/g, '.')
      // Without the marks beside it, and without the words of another script that it is glued to.
      const addresses = new Set(
        [text, latinOf(text)].flatMap((text) =>
          [ADDRESS, ASCII_ADDRESS].flatMap((form) => form.exec(text)?.[0] ?? []),
        ),
      )
      for (const address of addresses) {
        for (length = 0; length < address.length; length++) units[length] = address.charCodeAt(length)
        this.#addressFound(length, address.indexOf('+'), depth, start)
      }
    } else {
      this.#addressFound(length, tag, depth, start)
      // With each letter thirteen on, and from its end on, as pages hide addresses from machines.
      if (this.#key === undefined || length > LONGEST) return
      for (let place = 0; place < length; place++) units[place] = turned(units[place]!)
      this.#unitsFound('e-mail', 0, length, depth, start)
      for (let place = 0; place < length; place++) units[place] = turned(units[place]!)
      units.subarray(0, length).reverse()
      this.#unitsFound('e-mail', 0, length, depth, start)
    }
  }

  /** The address in `units`, whose first plus is at `tag`. */
  #addressFound(written: number, tag: number, depth: number, start: number): void {
    const units = this.#units
    let length = written
    if (length <= LONGEST) this.#unitsFound('e-mail', 0, length, depth, start)
    const sign = units.indexOf(0x40)
    if (tag < 0 || tag > sign) return
    // What is written after a plus is the same mailbox.
    units.copyWithin(tag, sign, length)
    length -= sign - tag
    if (length <= LONGEST) this.#unitsFound('e-mail', 0, length, depth, start)
  }

  /** An address with spaces or brackets around its @, or with its first part in quotes, or a comment behind it. */
  #looseAddress(bytes: Uint8Array, at: number, past: number, from: number, to: number, depth: number): void {
    if (this.#key === undefined) return
    const text = (start: number, end: number) => textOf(bytes, start, end)
    const domain = /^[ \])}]{0,2}([a-z0-9][a-z0-9.-]*)/i.exec(text(past, Math.min(to, past + LONGEST)))?.[1]
    const local = /([a-z0-9._%+-]+)(?:\([^()]*\)|[ [({]{1,2}|\\?")?$/i.exec(
      text(Math.max(from, at - LONGEST), at),
    )?.[1]
    if (domain && local) this.#tryAddress(`${local}@${domain}`, depth, at)
  }

  /** What relays make of an address within another: `bounce+a.b=mail.example@…`, `SRS0=…=mail.example=a.b@…`, `a.b%mail.example@…`. */
  #rewrittenAddress(
    bytes: Uint8Array,
    start: number,
    at: number,
    end: number,
    from: number,
    depth: number,
  ): void {
    let percent = at - 1
    while (percent > start && bytes[percent] !== 0x25) percent--
    if (percent > start) {
      const local = textOf(bytes, start, percent)
      this.#tryAddress(`${local}@${textOf(bytes, percent + 1, at)}`, depth, start)
    }
    if (bytes[start - 1] === 0x3d) {
      const first = Math.max(from, start - LONGEST)
      const before = /[a-z0-9._+-]+$/i.exec(textOf(bytes, first, start - 1))?.[0] ?? ''
      const local = textOf(bytes, start, at)
      this.#tryAddress(`${local}@${before}`, depth, start)
      this.#tryAddress(`${before}@${local}`, depth, start)
      this.#tryAddress(`${before.slice(before.indexOf('+') + 1)}@${local}`, depth, start)
    }
    // As names of domains are written for machines (RFC 3492).
    for (let dash = at + 3; dash < end; dash++) {
      if (bytes[dash] !== DASH || bytes[dash - 1] !== DASH) continue
      const domain = domainToUnicode(textOf(bytes, at + 1, end))
      this.#tryAddress(`${textOf(bytes, start, at)}@${domain}`, depth, start)
      return
    }
  }

  /** `zarghuna [at] mail [dot] example` */
  #spokenAddress(bytes: Uint8Array, at: number, from: number, to: number, depth: number): void {
    if ((bytes[at + 1]! | 0x20) !== 0x61 && bytes[at + 1] !== 0x20) return
    const after = textOf(bytes, at, Math.min(to, at + LONGEST))
    const [sign, ...parts] = SPOKEN.exec(after) ?? []
    const local = /([a-z0-9._%+-]+) *$/i.exec(textOf(bytes, Math.max(from, at - LONGEST), at))?.[1]
    if (sign === undefined || local === undefined) return
    this.#tryAddress(`${local}@${parts[0]!.replace(/ *[[({<] *dot *[\])}>] *| dot /gi, '.')}`, depth, at)
  }

  /** `zarghuna at mail dot example` and `zarghuna_at_mail.example.json` */
  #saidAddresses(bytes: Uint8Array, from: number, to: number, depth: number): void {
    const text = Buffer.from(bytes.buffer, bytes.byteOffset + from, to - from)
    for (const end of SAID_ENDS) {
      for (let at = text.indexOf(end); at >= 0; at = text.indexOf(end, at + end.length)) {
        if (!SAID.test(textOf(text, Math.max(0, at - 4), at + end.length))) continue
        const around = textOf(text, Math.max(0, at - LONGEST), Math.min(text.length, at + LONGEST))
        for (const [, local, domain] of around.matchAll(SAID_ADDRESS)) {
          const hosts = domain!.replace(/ dot |-dot-|\{dot\}/gi, '.').split('.')
          // What stands before and behind may be the rest of a file's name.
          const words = local!.replace(/ dot /gi, '.').split('_').slice(-4)
          for (let n = hosts.length; n > 1; n--) {
            for (let word = 0; word < words.length; word++) {
              const address = `${words.slice(word).join('_')}@${hosts.slice(0, n).join('.')}`
              this.#tryAddress(address, depth, from + at)
            }
          }
        }
      }
    }
  }

  /** An address in two fields: `at` is behind the name of that of the domain. */
  #splitAddress(bytes: Uint8Array, at: number, from: number, to: number, depth: number): void {
    // Users and hosts that are nobody's address stand in every log.
    if (this.#key === undefined) return
    const text = textOf(bytes, at, Math.min(to, at + LONGEST))
    const domain = /^[\s"'\\@]*([a-z0-9-]+(?:\.[a-z0-9-]+)+)/i.exec(text)?.[1]
    if (domain === undefined) return
    const around = textOf(bytes, Math.max(from, at - FARTHEST_FIELD), Math.min(to, at + FARTHEST_FIELD))
    for (const [, local] of around.matchAll(LOCAL_PART)) this.#tryAddress(`${local}@${domain}`, depth, at)
  }

  #tryAddress(written: string, depth: number, at: number): void {
    const address = foldText(written).toLowerCase()
    if (address.length > LONGEST) return
    for (let unit = 0; unit < address.length; unit++) this.#units[unit] = address.charCodeAt(unit)
    this.#addressFound(address.length, address.indexOf('+'), depth, at)
  }

  #unitsFound(form: Form, from: number, to: number, depth: number, at: number): boolean {
    const key = this.#key
    if (key) {
      let tail = to
      while (form === 'word' && tail > from && this.#units[tail - 1]! < 0x3a) tail--
      const digits = Math.min(to - tail, NUMBER_DIGITS)
      if (digits < SHORTEST_TAIL) tagUnits(key.sip, form, this.#units, from, to)
      else {
        let value = 0
        for (let at = to - digits; at < to; at++) value = value * 10 + this.#units[at]! - 0x30
        tagTail(key.sip, digits, value)
      }
    }
    const found = key ? this.#tags.find(key.sip.low, key.sip.high) : 0
    if (found < 0) return false
    const index = this.#proved(found, { form, value: String.fromCharCode(...this.#units.subarray(from, to)) })
    if (index < 0) return false
    this.#hit(index, depth, at)
    return true
  }

  /** Names, and record numbers with letters: up to four words that follow each other. */
  #words(bytes: Uint8Array, from: number, to: number, depth: number): void {
    const units = this.#units
    const shapes = this.#shapes
    const { names } = this.#has
    // Of the last four words, by number: where they begin in `units` and in `bytes`, and the figures before them.
    const begins = this.#wordBegins
    const places = this.#wordPlaces
    const before = this.#wordFigures
    this.#partsOfNames.length = 0
    // Where the name of a field ended just now.
    let label = 0
    let word = 0
    let oldest = 0
    let length = 0
    let figures = 0
    let at = from
    let past = from
    while (at < to) {
      if (ASCII_WORD[bytes[at]!] === 0) {
        at++
        continue
      }
      const start = at
      const begin = length
      const figuresBefore = figures
      while (at < to && length - begin <= LONGEST) {
        let unit = ASCII_WORD[bytes[at]!]!
        if (unit === 0) break
        let size = 1
        if (unit === BEYOND_ASCII) {
          const codePoint = codePointAt(bytes, at, to)
          const kind = kindOf(this.#table, codePoint)
          size = sizeOf(codePoint)
          if (kind === IGNORED) {
            at += size
            continue
          }
          if (kind === DIGIT) unit = 0x30 + foldOf(this.#table, codePoint)
          else if (kind === LETTER) unit = foldOf(this.#table, codePoint)
          else break
        }
        at += size
        units[length++] = unit
        if (unit < 0x3a) figures++
      }
      if (length === begin || length - begin > LONGEST) {
        if (at === start) at += sizeOf(codePointAt(bytes, at, to))
        length = begin
        figures = figuresBefore
        continue
      }
      // `last_name` between two names says what they are, and parts them no more than a space does.
      if (names && figures === figuresBefore && STOP_WORDS.has(hashOf(units, begin, length))) {
        length = begin
        if (start - past <= FARTHEST_WORD) past = at
        label = at
        continue
      }
      if (label > 0 && names) {
        if (figures === figuresBefore && start - label <= FARTHEST_WORD && opensValue(bytes, label, start))
          this.#partOfName(units.slice(begin, length), depth, start)
        label = 0
      }
      if (start - past > FARTHEST_WORD) oldest = word
      past = at
      const slot = word & 3
      begins[slot] = begin
      places[slot] = start
      before[slot] = figuresBefore
      for (let first = word; first >= oldest && first > word - 4; first--) {
        const start = begins[first & 3]!
        const digits = figures - before[first & 3]!
        if ((names || digits > 0) && shapes[shapeOf(length - start, digits)] === 1)
          this.#window(start, length, digits, depth, places[first & 3]!)
      }
      word++
      if (length > units.length - 3 * LONGEST) {
        oldest = Math.max(oldest, word - 3)
        const kept = begins[oldest & 3]!
        units.copyWithin(0, kept, length)
        for (let one = oldest; one < word; one++) begins[one & 3]! -= kept
        length -= kept
      }
    }
  }

  /** The value of a field like `first_name`: does it make a name with another one's of the same record? */
  #partOfName(letters: Uint16Array, depth: number, at: number): void {
    const parts = this.#partsOfNames
    while (parts.length > 0 && (parts.length > 3 || at - parts[0]!.at > FARTHEST_FIELD)) parts.shift()
    const units = this.#units
    const from = units.length - LONGEST
    for (const other of parts) {
      const length = other.letters.length + letters.length
      if (length > LONGEST || this.#shapes[shapeOf(length, 0)] === 0) continue
      for (const [first, last] of [
        [other.letters, letters],
        [letters, other.letters],
      ] as const) {
        units.set(first, from)
        units.set(last, from + first.length)
        this.#window(from, from + length, 0, depth, at)
      }
    }
    parts.push({ letters, at })
  }

  /** Some words that follow each other: are they a name, or a number with letters? */
  #window(from: number, to: number, figures: number, depth: number, at: number): void {
    this.#unitsFound(figures === 0 ? 'name' : 'word', from, to, depth, at)
  }

  /** Runs of base64 or hex digits. */
  #runs(bytes: Uint8Array, from: number, to: number, depth: number): void {
    // Every run of twelve holds a byte that is looked at here.
    let probe = from + SHORTEST_RUN - 1
    while (probe < to) {
      if (BASE64[bytes[probe]!] === 255) {
        probe += SHORTEST_RUN
        continue
      }
      let start = probe
      const first = probe - SHORTEST_RUN
      while (start > first && start > from && BASE64[bytes[start - 1]!] !== 255) start--
      let end = probe + 1
      while (end < to && BASE64[bytes[end]!] !== 255) end++
      // Lines of one run, as MIME breaks them, and as YAML indents them.
      const wrapsAfter = end
      for (let piece = start; end - piece >= SHORTEST_WRAP && end + 3 < to; ) {
        let next = end
        while (next < end + 3 && (bytes[next] === 10 || bytes[next] === 13)) next++
        if (next > end) while (next < end + WIDEST_INDENT && bytes[next] === 0x20) next++
        if (next === end || BASE64[bytes[next]!] === 255) break
        piece = next
        end = next + 1
        while (end < to && BASE64[bytes[end]!] !== 255) end++
      }
      if (end - start >= SHORTEST_RUN) this.#run(bytes, start, end, end > wrapsAfter, depth)
      probe = end + SHORTEST_RUN
    }
  }

  #run(bytes: Uint8Array, start: number, end: number, isWrapped: boolean, depth: number): void {
    const into = this.#scratch[depth + 1]!
    let hex = 0
    let inHex = 0
    let first = start
    this.#base32(bytes, start, end, depth)
    for (let at = start; at <= end; at++) {
      if (at < end && HEX[bytes[at]!] !== 255) {
        if (hex++ === 0) first = at
        continue
      }
      if (at < end && hex > 0 && BASE64[bytes[at]!] === 255) continue
      if (hex >= SHORTEST_HEX) {
        decodeSemiOctets(bytes, first, at, into)
        if (into.length > 0) this.#within('semi-octets', into.bytes, 0, into.length, depth, start)
        for (const odd of [0, 1]) {
          decodeHex(bytes, first + odd, at, into)
          this.#decoded('hex', into, depth, start)
        }
      }
      if (hex >= 4) inHex += at < end && ASCII_WORD[bytes[at]!] !== 0 ? hex : hex + 1
      hex = 0
    }
    // Identifiers of systems are all hex and dashes: no text looks like that in base64.
    if (inHex > end - start) return
    for (let shift = 0; shift < 4; shift++) {
      if (!isWrapped && !looksEncoded(bytes, start + shift, end, shift === 0)) continue
      decodeBase64(bytes, start + shift, end, into)
      this.#decoded('base64', into, depth, start)
    }
  }

  /** Runs of one case that have the length of nine bytes in base32, and are more than hex. */
  #base32(bytes: Uint8Array, start: number, end: number, depth: number): void {
    if (end - start < SHORTEST_BASE32) return
    const into = this.#scratch[depth + 1]!
    // Every such run holds a digit that is looked at here.
    for (let probe = start + SHORTEST_BASE32 - 1; probe < end; probe += SHORTEST_BASE32) {
      let cases = 0
      let from = probe
      for (; from >= start && isOfCase(cases, bytes[from]!); from--) cases |= CASE[bytes[from]!]!
      let to = probe + 1
      for (; to < end && isOfCase(cases, bytes[to]!); to++) cases |= CASE[bytes[to]!]!
      probe = to - 1
      if (to - from <= SHORTEST_BASE32 || (cases & BEYOND_HEX) === 0) continue
      for (let kind = 0; kind < BASE32_KINDS; kind++)
        if (decodeBase32(kind, bytes, from + 1, to, into)) this.#stretches('base32', into, depth, start)
    }
  }

  #decoded(encoding: string, into: Decoded, depth: number, at: number): void {
    if (mayBeCompressed(into)) {
      const data = into.bytes.subarray(0, into.length)
      if (data[0] === ZIP[0]) this.#files(`${encoding} of zip`, ZIP, data.slice(), depth, at)
      const plain =
        data[0] === ZIP[0]
          ? undefined
          : (decompress(data, UNCOMPRESSED, this.#cut) ?? decompressBare(data, UNCOMPRESSED))
      if (plain) this.#within(`${encoding} of gzip`, plain, 0, plain.length, depth, at)
    }
    this.#stretches(encoding, into, depth, at)
  }

  /** The first index whose number has these last digits, or -1. */
  #numberFound(digits: number, value: number): number {
    const key = this.#key
    if (key === undefined) return 0
    tagNumber(key.sip, digits, value)
    return this.#tags.find(key.sip.low, key.sip.high)
  }

  #proved(found: number, canonical: Canonical): number {
    if (this.#key === undefined) {
      return PATTERNS.findIndex(
        ({ form, pattern }) => form === canonical.form && pattern.test(canonical.value),
      )
    }
    const proof = proofOf(this.#key, canonical)
    for (let index = found; index >= 0; index = this.#tags.next(index)) {
      const one = this.#wanted[index]!
      if (one.form === canonical.form && proof.equals(one.proof)) return index
    }
    return -1
  }

  #hit(index: number, depth: number, at: number): void {
    const place = depth === 0 ? at : this.#origin
    const line = this.#base + (place === 0 ? 0 : this.#top.lastIndexOf(NEWLINE, place - 1) + 1)
    const { form, proof } = this.#wanted[index]!
    // The same identifier may be more than one subject's.
    for (let other = index; other >= 0; other = this.#tags.next(other)) {
      const { subject, kind, ...one } = this.#wanted[other]!
      if (one.form !== form || !one.proof.equals(proof)) continue
      const key = `${subject} ${kind} ${line}`
      if (this.#seen.has(key)) continue
      this.#seen.add(key)
      this.#hits.push({ subject, kind, offset: this.#base + place, encodings: [...this.#path] })
    }
  }
}

/** What anybody's identifiers look like: numbers of Afghanistan and its neighbours, e-Tazkiras, addresses. */
const PATTERNS: { kind: string; form: Form; pattern: RegExp }[] = [
  {
    kind: 'phone',
    form: 'international',
    pattern: /^(93[2-7]\d{8}|989\d{9}|923\d{9}|99[28]\d{9}|9936\d{7})$/,
  },
  { kind: 'phone', form: 'national', pattern: /^7\d{8}$/ },
  { kind: 'national-id', form: 'number', pattern: /^1[34]\d{11}$/ },
  { kind: 'e-mail', form: 'e-mail', pattern: /^[^@]+@[^@]+\.[a-z]{2,}$/ },
]

/** All that digits can be: a number, or a phone number in either form. */
function* readingsOf(written: string): Generator<Canonical> {
  yield { form: 'number', value: written }
  const { international, national } = phoneReadings(written)
  for (const value of international) yield { form: 'international', value }
  for (const value of national) yield { form: 'national', value }
}

/** Whether the name of a field that holds a domain ends at a sign after it: `"email_domain":`, `host=`, `<domain>`. */
function endsDomain(bytes: Uint8Array, at: number): boolean {
  let end = at - 1
  if (bytes[end] === 0x22 || bytes[end] === 0x27) end--
  if (bytes[end] === 0x5c) end--
  // Most end with another letter.
  const word = DOMAIN_WORDS[bytes[end]! | 0x20]
  if (word === undefined) return false
  for (let n = 0; n < word.length; n++) if ((bytes[end - n]! | 0x20) !== word[n]) return false
  return true
}
/** By the last letter, from there. */
const DOMAIN_WORDS = new Array<Buffer | undefined>(256).fill(undefined)
for (const word of ['domain', 'host', 'suffix'])
  DOMAIN_WORDS[word.charCodeAt(word.length - 1)] = Buffer.from(word).reverse()

/** Fields in which the first part of an address may stand. */
const LOCAL_PART =
  /(?:user|local|mail|account|login|prefix)[\w-]*["'\\]{0,3} ?[:=>] ?["'\\]{0,3}([a-z0-9][a-z0-9._%+-]{0,63})(?![@\w])/gi

/** How the words end that are said for signs, and the words: a search is as quick as its first letter is rare. */
const SAID_ENDS = ['T ', 'ot ', 't_', 't}', 't-'].map((end) => Buffer.from(end))
const SAID = /( dot | AT |[_{-]at[_}-])$/i
const SAID_ADDRESS =
  /([a-z0-9._%+-]+(?: dot [a-z0-9_+-]+)*)(?: at |_at_|-at-|\{at\})([a-z0-9-]+?(?:(?: dot |-dot-|\{dot\}|\.)[a-z0-9-]+?)+)(?![a-z0-9])/gi
const SPOKEN = /^[[({] *at *[\])}] *([a-z0-9-]+(?:(?: *[[({<] *dot *[\])}>] *| dot |\.)[a-z0-9-]+)*)/i

const textOf = (bytes: Uint8Array, from: number, to: number): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset + from, Math.max(0, to - from)).toString('latin1')

/** Whether a figure with so many digits behind its point is a whole number: `9.3700123456e10`. */
function hasExponent(bytes: Uint8Array, at: number, digits: number): boolean {
  if ((bytes[at]! | 0x20) !== 0x65) return false
  const text = textOf(bytes, at + 1, at + 4)
  return Number(/^\+?(\d{1,2})/.exec(text)?.[1]) >= digits
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

/** Whether two quads of text follow each other, or something compressed begins. */
function looksEncoded(bytes: Uint8Array, from: number, to: number, isBegin: boolean): boolean {
  const begins = quadAt(bytes, from)
  if (begins === 0x1f8b08 || begins === 0x504b03 || (begins >> 16 === 0x78 && (begins >> 8) % 31 === 0))
    return true
  if (isBegin && mayBeBare(begins >> 16)) return true
  // One of every two neighbours is looked at.
  for (let at = from + 4; at + 4 <= to; at += 8) {
    if (isTextAt(bytes, at) && (isTextAt(bytes, at - 4) || (at + 8 <= to && isTextAt(bytes, at + 4))))
      return true
  }
  return false
}

const quadAt = (bytes: Uint8Array, at: number): number =>
  (BASE64[bytes[at]!]! << 18) |
  (BASE64[bytes[at + 1]!]! << 12) |
  (BASE64[bytes[at + 2]!]! << 6) |
  BASE64[bytes[at + 3]!]!

const isTextAt = (bytes: Uint8Array, at: number): boolean => quadIsText(quadAt(bytes, at))

function skipSeparators(table: Characters, bytes: Uint8Array, from: number, to: number): number {
  let at = from
  for (let gap = 0; at < to && gap <= WIDEST_GAP; ) {
    const byte = bytes[at]!
    if (byte < 0x80) {
      if (SEPARATES[byte] === 0) return gap > 0 ? at : from
      at++
      gap++
      continue
    }
    const codePoint = codePointAt(bytes, at, to)
    const kind = kindOf(table, codePoint)
    if (kind === SEPARATOR) gap++
    else if (kind !== IGNORED) return gap > 0 ? at : from
    at += sizeOf(codePoint)
  }
  return from
}
/** Characters between two groups of a number: `) - (`. */
const WIDEST_GAP = 5

const isDigit = (table: Characters, bytes: Uint8Array, at: number, to: number): boolean =>
  isFigure(bytes[at]) || (bytes[at]! >= 0xc2 && kindOf(table, codePointAt(bytes, at, to)) === DIGIT)

const ADDRESS = /[\p{L}0-9_](?:[\p{L}0-9._%+-]*[\p{L}0-9_])?@[\p{L}0-9](?:[\p{L}0-9._-]*[\p{L}0-9])?/u
const ASCII_ADDRESS = /[a-z0-9_](?:[a-z0-9._%+-]*[a-z0-9_])?@[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?/

/** ROT13 of a small letter. */
const turned = (unit: number): number =>
  unit < 0x61 || unit > 0x7a ? unit : 0x61 + ((unit - 0x61 + 13) % 26)

/** What parts the columns of a table. */
const isColumn = (byte: number): boolean =>
  byte === 0x2c || byte === 0x3b || byte === 0x7c || byte === 0x5e || byte === 0x09

const isLoose = (byte: number | undefined): boolean => byte === 0x2e || (byte !== undefined && isColumn(byte))

const isFigure = (byte: number | undefined): boolean => byte !== undefined && byte >= 0x30 && byte <= 0x39

const isHexPair = (bytes: Uint8Array, at: number): boolean =>
  HEX[bytes[at]!] !== 255 && HEX[bytes[at + 1]!] !== 255

/** Whether figures are part of an id in hex digits: a UUID, cut by its dashes, or a longer one. */
function isHexOfId(bytes: Uint8Array, start: number, end: number, from: number, to: number): boolean {
  let first = start
  while (first > from && HEX[bytes[first - 1]!] !== 255) first--
  let past = end
  while (past < to && HEX[bytes[past]!] !== 255) past++
  if (first === start && past === end) return false
  const isWordChar = (byte: number) => byte < 0x80 && ASCII_WORD[byte] !== 0
  if ((first > from && isWordChar(bytes[first - 1]!)) || (past < to && isWordChar(bytes[past]!))) return false
  return bytes.subarray(Math.max(from, first - 1), past).includes(DASH) || past - first >= 16
}

function plusBefore(bytes: Uint8Array, at: number, from: number): boolean {
  for (let before = at - 1; before >= from && before >= at - 8; before--) {
    const byte = bytes[before]!
    if (byte === 0x2b) return true
    // Spaces, brackets, bidi marks, and the last byte of a fullwidth plus.
    if (byte === 0x8b && bytes[before - 1] === 0xbc) return true
    if (byte !== 0x20 && byte !== 0x28 && byte < 0x80) return false
  }
  return false
}

const isOfCase = (cases: number, byte: number): boolean =>
  CASE[byte]! !== NO_CASE && ((cases | CASE[byte]!) & 3) !== 3

/** Whether only what parts the items of a list stands between. */
function listed(bytes: Uint8Array, from: number, to: number): boolean {
  let commas = 0
  for (let at = from; at < to; at++) {
    if (bytes[at] === 0x2c) commas++
    else if (![0x20, 0x22, 0x27, 0x5c, 0x0a].includes(bytes[at]!)) return false
  }
  return commas === 1
}

function orders({ digits: a }: PartOfNumber, { digits: b }: PartOfNumber, { digits: c }: PartOfNumber) {
  return [a + b + c, a + c + b, b + a + c, b + c + a, c + a + b, c + b + a]
}

/** Whether what stands between a field's name and `to` says that its value begins there. */
function opensValue(bytes: Uint8Array, from: number, to: number): boolean {
  for (let at = from; at < to; at++)
    if (bytes[at] === COLON || bytes[at] === 0x3d || bytes[at] === 0x3e) return true
  return false
}

const belong = (one: number, other: number): boolean =>
  ((one | other) & (PHONE | DIAL)) !== 0
    ? (one & (PHONE | PART | DIAL)) !== 0 && (other & (PHONE | PART | DIAL)) !== 0
    : ((one | other) & RECORD) !== 0 && (one & (RECORD | PART)) !== 0 && (other & (RECORD | PART)) !== 0

function isEscape(bytes: Uint8Array, at: number, to: number): boolean {
  const next = bytes[at + 1]!
  switch (bytes[at]) {
    case 0x25:
      return at + 2 < to && (isHexPair(bytes, at + 1) || (next | 0x20) === 0x75)
    case 0x5c:
      return BACKSLASHED[next] === 1
    case 0x1b:
      return next === 0x5b
    case 0x26:
      return (
        next === 0x23 ||
        ((next | 0x20) >= 0x61 && (next | 0x20) <= 0x7a && bytes.subarray(at, at + 9).includes(0x3b))
      )
    default:
      // A soft line break, escaped itself.
      return next === 0x5c && (bytes[at + 2] === 0x6e || bytes[at + 2] === 0x72)
  }
}

/** One `=30` is a field's value; two in a row are quoted-printable, and so is `=40` within a word. */
const isQuoted = (bytes: Uint8Array, at: number): boolean =>
  bytes[at] === 0x3d &&
  ((bytes[at + 3] === 0x3d && isHexPair(bytes, at + 1) && isHexPair(bytes, at + 4)) ||
    // The one sign of an address that headers may not have.
    (bytes[at + 1] === 0x34 && bytes[at + 2] === 0x30 && CASE[bytes[at + 3]!]! !== NO_CASE))

/** The code point that begins here; U+FFFD for what is none. */
function codePointAt(bytes: Uint8Array, at: number, to: number): number {
  const byte = bytes[at]!
  const size = byte < 0xc2 || byte > 0xf4 ? 0 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4
  if (size === 0 || at + size > to) return BROKEN
  const two = bytes[at + 1]! ^ 0x80
  if (size === 2) return two < 64 ? ((byte & 31) << 6) | two : BROKEN
  const three = bytes[at + 2]! ^ 0x80
  if (size === 3) return (two | three) < 64 ? ((byte & 15) << 12) | (two << 6) | three : BROKEN
  const four = bytes[at + 3]! ^ 0x80
  return (two | three | four) < 64 ? ((byte & 7) << 18) | (two << 12) | (three << 6) | four : BROKEN
}
/** Of no size that fits: whoever steps by it goes on with the next byte. */
const BROKEN = 0

const sizeOf = (codePoint: number): number =>
  codePoint < 0x80 ? 1 : codePoint < 0x800 ? 2 : codePoint < 0x10000 ? 3 : 4

const NEWLINE = 10
const SHORTEST_PROSE = 48
/** U+202E, right-to-left override. */
const OVERRIDE = 0x202e
const AT = 0x40
/** Spaces, what continues a line of a shell, and what quotes one of a mail. */
const ENDS_LINE = new Uint8Array(256)
for (const sign of ' \r\t\\-') ENDS_LINE[sign.charCodeAt(0)] = 1
const INDENTS = new Uint8Array(256)
for (const sign of ' \t>#*/') INDENTS[sign.charCodeAt(0)] = 1
/** Letters, or the sign before the code of a country. */
function hasWords(bytes: Uint8Array, from: number, to: number): boolean {
  for (let at = from; at < to; at++) {
    if (bytes[at] === 0x2b || (CASE[bytes[at]!]! !== NO_CASE && CASE[bytes[at]!]! !== 0)) return true
  }
  return false
}
const mayBeDigit = (byte: number): boolean => isFigure(byte) || byte >= 0x80
const COLON = 0x3a
const DASH = 0x2d
/** Bytes between two halves of characters in one piece of UTF-16. */
const FARTHEST_HALF = 32
/** Bytes between two fields of one record. */
const FARTHEST_FIELD = 600
/** Bytes between two words of one name, with the name of a field. */
const FARTHEST_WORD = 8

const [PLAIN, FIGURE, LEAD, AT_SIGN, HALF, LINE_END, ESCAPE, TAG, JOINT, NAMED, ZLIB, SIGN] = [
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
]
const SORT = new Uint8Array(256)
/** What a backslash makes something else of. */
const BACKSLASHED = new Uint8Array(256)
for (const sign of "uxU/\\nrt01234567'") BACKSLASHED[sign.charCodeAt(0)] = 1
const SEPARATES = new Uint8Array(128)
/** 1: within; 2: within, but neither at the beginning nor at the end. */
const IN_ADDRESS = new Uint8Array(256)
/** ASCII letters, small, and figures; `BEYOND_ASCII` for what a table must tell. */
const ASCII_WORD = new Uint8Array(256).fill(255, 0x80)
const BEYOND_ASCII = 255
/** 1: a small letter; 2: a capital; with 8, one that is no hex digit; 0: a figure. */
const CASE = new Uint8Array(256).fill(255)
const NO_CASE = 255
const BEYOND_HEX = 8
/** Digits of base85 but for quotes, which end it, although one kind has them. */
const IN_BASE85 = new Uint8Array(256)
const OPENS_VALUE = new Uint8Array(256)
for (const sign of '=:~') OPENS_VALUE[sign.charCodeAt(0)] = 1
/** What says which figures follow a nought. */
const MARKS = new Uint8Array(256)
for (const sign of 'xXbBoO') MARKS[sign.charCodeAt(0)] = 1
const PAIR_JOINT = new Uint8Array(256)
const IN_PAIR = new Uint8Array(256)
for (let byte = 0; byte < 256; byte++) {
  if (byte >= 0x30 && byte <= 0x39) SORT[byte] = FIGURE
  else if (byte >= 0xc2) SORT[byte] = LEAD
  if (byte >= 0x80) IN_ADDRESS[byte] = 1
}
SORT[0x40] = AT_SIGN
SORT[0] = SORT[6] = SORT[0xff] = HALF
SORT[NEWLINE] = LINE_END
for (const sign of '%\\&=\u001b') SORT[sign.charCodeAt(0)] = ESCAPE
SORT[0x3c] = TAG
for (const sign of '!#$*;?@`~') if (SORT[sign.charCodeAt(0)] === PLAIN) SORT[sign.charCodeAt(0)] = SIGN
for (let byte = 0x21; byte < 0x7f; byte++) IN_BASE85[byte] = 1
IN_BASE85[0x22] = IN_BASE85[0x27] = 0
for (const sign of '[(+|') SORT[sign.charCodeAt(0)] = JOINT
for (const sign of ':>') SORT[sign.charCodeAt(0)] = NAMED
for (const byte of [1, 0x5e, 0x9c]) SORT[byte] = ZLIB
for (const sign of ' -./()_+~*,;|^\t\'"') SEPARATES[sign.charCodeAt(0)] = 1
// Controls that part fields, or do nothing where they are shown; but for those that other encodings begin with.
for (const byte of [2, 3, 4, 5, 7, 8, 11, 12, 0x7f]) SEPARATES[byte] = 1
for (let byte = 14; byte < 32; byte++) if (byte !== 0x1b) SEPARATES[byte] = 1
for (const sign of '0123456789abcdefABCDEFxXuU+') IN_PAIR[sign.charCodeAt(0)] = 1
for (const sign of ' :-,;|./_%$\n') PAIR_JOINT[sign.charCodeAt(0)] = 1
for (const sign of '.-+_%') IN_ADDRESS[sign.charCodeAt(0)] = 2
IN_ADDRESS[0x5f] = 1
for (const sign of '0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ') {
  IN_ADDRESS[sign.charCodeAt(0)] = 1
  CASE[sign.charCodeAt(0)] =
    sign < 'A' ? 0 : (sign < 'a' ? 2 : 1) | (sign.toLowerCase() > 'f' ? BEYOND_HEX : 0)
  ASCII_WORD[sign.charCodeAt(0)] = sign.toLowerCase().charCodeAt(0)
}

/** Second bytes of Ø, Ù, Ú, Û and Ã: what Arabic and Latin letters of UTF-8 look like in Latin-1. */
const MOJIBAKE = new Set([0x83, 0x98, 0x99, 0x9a, 0x9b])

// FNV-1a.
const EMPTY_HASH = 0x811c9dc5 | 0
const HASH_PRIME = 0x01000193
/** A place for what has so many characters, and so many digits among them. */
const shapeOf = (length: number, digits: number): number => ((length << 7) | digits) & 0xffff

function hashOf(units: ArrayLike<number>, from: number, to: number): number {
  let hash = EMPTY_HASH
  for (let at = from; at < to; at++) hash = Math.imul(hash ^ units[at]!, HASH_PRIME)
  return hash
}

/** Hashes of words in fields' names that stand between two parts of a name. */
const STOP_WORDS = new Set(
  `first last given family middle sur surname name names firstname lastname givenname familyname father fname lname forename
    patient patientfirstname patientlastname value val key field content string نام تخلص ولد`
    .split(/\s+/)
    .map((word) =>
      hashOf(
        [...word].map((sign) => sign.charCodeAt(0)),
        0,
        word.length,
      ),
    ),
)
