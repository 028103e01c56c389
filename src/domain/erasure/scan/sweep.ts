import { characters, DIGIT, kindOf } from '../characters.ts'
import { Addresses, endsDomain } from './addresses.ts'
import { codePointAt, SHARED, sizeOf } from './bytes.ts'
import type { Findings } from './findings.ts'
import { tagEnd } from './join.ts'
import type { Layers } from './layers.ts'
import { isEscape, isQuoted, Lines } from './lines.ts'
import { Lists } from './lists.ts'
import { Numbers } from './numbers.ts'
import { Runs } from './runs.ts'
import { Signs } from './signs.ts'
import { Words } from './words.ts'

/** Goes through one text from begin to end, and gives each place to whoever knows what may begin or end there. */
export class Sweep {
  readonly #table = characters()
  readonly #layers: Layers
  readonly #addresses: Addresses
  readonly #words: Words
  readonly #numbers: Numbers
  readonly #runs: Runs
  readonly #lists: Lists
  readonly #lines: Lines
  readonly #signs: Signs

  constructor(layers: Layers, findings: Findings) {
    this.#layers = layers
    this.#addresses = new Addresses(findings)
    this.#words = new Words(findings)
    this.#lists = new Lists(layers)
    this.#numbers = new Numbers(findings, this.#words, this.#lists)
    this.#runs = new Runs(layers)
    this.#lines = new Lines(layers, this.#addresses.areSought)
    this.#signs = new Signs(layers)
  }

  /** A text that lies in so many encodings. */
  read(bytes: Uint8Array, from: number, to: number, depth: number): void {
    this.#numbers.begin(depth)
    // Escapes leave words as they are, and what chance decodes to is short.
    const isProse = depth === 0 || (to - from >= SHORTEST_PROSE && this.#layers.path.at(-1) !== 'escapes')
    if (isProse && this.#addresses.areSought) this.#addresses.said(bytes, from, to, depth)
    this.#characters(bytes, from, to, depth)
    this.#runs.read(bytes, from, to, depth)
    this.#lists.read(bytes, from, to, depth)
    if (this.#words.areSought) this.#words.read(bytes, from, to, depth)
  }

  /** Numbers, addresses, and what a single sign begins or a line's end completes. */
  #characters(bytes: Uint8Array, from: number, to: number, depth: number): void {
    const addresses = this.#addresses.areSought
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
          at = this.#numbers.read(bytes, at, from, to, depth)
          break
        case LEAD: {
          const codePoint = codePointAt(bytes, at, to)
          const kind = kindOf(this.#table, codePoint)
          if (kind === DIGIT) {
            at = this.#numbers.read(bytes, at, from, to, depth)
            break
          }
          if (codePoint === OVERRIDE) this.#signs.reversed(bytes, at + 3, to, depth)
          if (codePoint === 0xff20 || codePoint === 0xfe6b)
            this.#addresses.around(bytes, at, at + 3, from, to, depth)
          if (byte === 0xc3 && MOJIBAKE.has(bytes[at + 1]!)) mojibake++
          else if (byte === 0xda && bytes[at - 1] === 0x78) this.#layers.zlib(bytes, at - 1, to, depth)
          at += sizeOf(codePoint)
          break
        }
        case TAG: {
          const end = tagEnd(bytes, at, to)
          if (end > 0) {
            if (firstTag < 0) firstTag = at
            lastTag = end
          }
          if (bytes[at + 1] === 0x7e) this.#signs.base85(bytes, at + 2, Math.min(to, at + SHARED), depth)
          else if (at >= signedTo) signedTo = this.#signs.word(bytes, at, from, to, depth)
          at++
          break
        }
        case JOINT:
          if (addresses && (byte === 0x5b || byte === 0x28))
            this.#addresses.spoken(bytes, at, from, to, depth)
          this.#signs.joint(bytes, at, from, to, depth)
          at++
          break
        case SIGN:
          if (at >= signedTo) signedTo = this.#signs.word(bytes, at, from, to, depth)
          at++
          break
        case NAMED:
          if (addresses && endsDomain(bytes, at)) this.#addresses.split(bytes, at + 1, from, to, depth)
          at++
          break
        case ZLIB:
          if (bytes[at - 1] === 0x78) this.#layers.zlib(bytes, at - 1, to, depth)
          at++
          break
        case AT_SIGN:
          if (addresses) this.#addresses.around(bytes, at, at + 1, from, to, depth)
          at++
          break
        case HALF:
          if (halves > 0 && at - lastHalf > FARTHEST_HALF) {
            this.#signs.wide(bytes, firstHalf, lastHalf, from, to, halves, depth)
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
          if (escapes + quoted + mojibake > 0)
            this.#lines.escaped(bytes, line, at, depth, escapes, quoted, mojibake)
          if (firstTag >= 0) this.#lines.tagged(bytes, firstTag, lastTag, line, at, depth)
          if (at >= blockTo) blockTo = this.#lines.block(bytes, line, at, to, depth)
          this.#lines.broken(bytes, at, line, to, depth)
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
            this.#addresses.split(bytes, at + 1, from, to, depth)
          at++
      }
    }
    if (escapes + quoted + mojibake > 0)
      this.#lines.escaped(bytes, line, to, depth, escapes, quoted, mojibake)
    if (firstTag >= 0) this.#lines.tagged(bytes, firstTag, lastTag, line, to, depth)
    this.#signs.wide(bytes, firstHalf, lastHalf, from, to, halves, depth)
  }
}

const SHORTEST_PROSE = 48
/** U+202E, right-to-left override. */
const OVERRIDE = 0x202e

/** Bytes between two halves of characters in one piece of UTF-16. */
const FARTHEST_HALF = 32

/** What a byte may begin or end; most are plain. */
const [PLAIN, FIGURE, LEAD, AT_SIGN, HALF, LINE_END, ESCAPE, TAG, JOINT, NAMED, ZLIB, SIGN] = [
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
]
const SORT = new Uint8Array(256).fill(FIGURE, 0x30, 0x3a).fill(LEAD, 0xc2)
for (const byte of [0, 6, 0xff]) SORT[byte] = HALF
for (const byte of [1, 0x5e, 0x9c]) SORT[byte] = ZLIB
for (const [sort, signs] of [
  [LINE_END, '\n'],
  [AT_SIGN, '@'],
  [ESCAPE, '%\\&=\u001b'],
  [TAG, '<'],
  [JOINT, '[(+|'],
  [NAMED, ':>'],
  [SIGN, '!#$*;?`~'],
] as const)
  for (const sign of signs) SORT[sign.charCodeAt(0)] = sort

/** Second bytes of Ø, Ù, Ú, Û and Ã: what Arabic and Latin letters of UTF-8 look like in Latin-1. */
const MOJIBAKE = new Set([0x83, 0x98, 0x99, 0x9a, 0x9b])
