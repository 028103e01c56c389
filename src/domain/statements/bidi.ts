import bidiFactory, { type Bidi } from 'bidi-js'

// Its types take the module for one with a default export of its own.
const bidi = (bidiFactory as unknown as () => Bidi)()

export type Direction = 'ltr' | 'rtl'

/** Whatever could move a character in a left-to-right paragraph: right-to-left letters, Arabic numbers, explicit formatting. */
const REORDERS =
  /[\u0590-\u06ef\u06fa-\u08ff\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufb1d-\ufdff\ufe70-\ufeff]/
const BEYOND_BMP = /[\u{10000}-\u{10FFFF}]/gu
// bidi-js reads UTF-16 units: a character beyond the BMP stands in its table under its code point alone.
const STAND_IN: Record<string, string> = {
  R: '\u05d0',
  AL: '\u0627',
  EN: '0',
  AN: '\u0660',
  ON: '\u2603',
  NSM: '\u0300',
  BN: '\u00ad',
}

/**
 * Embedding levels of one paragraph (UAX #9, P2 to I2, and L1 for separators), one for each UTF-16 unit. Always of the
 * whole paragraph: a line's levels depend on what stands before and after it.
 */
export function resolveLevels(
  paragraph: string,
  direction: Direction | 'auto',
): { levels: Uint8Array; base: number } {
  if (direction !== 'rtl' && !REORDERS.test(paragraph)) {
    return { levels: new Uint8Array(paragraph.length), base: 0 }
  }
  const text = paragraph.replace(BEYOND_BMP, (char) =>
    (STAND_IN[bidi.getBidiCharTypeName(char)] ?? 'a').repeat(2),
  )
  const { levels, paragraphs } = bidi.getEmbeddingLevels(text, direction)
  return { levels, base: paragraphs[0]?.level ?? 0 }
}

const RTL_SCRIPT = '\\p{Script=Arab}\\p{Script=Hebr}\\p{Script=Syrc}\\p{Script=Thaa}\\p{Script=Nkoo}'
const RTL_LETTER = new RegExp(`(?=\\p{L})[${RTL_SCRIPT}]`, 'u')
const OTHER_LETTER = new RegExp(`(?![${RTL_SCRIPT}])\\p{L}`, 'u')

/**
 * The direction of a text that is given (UAX #9 HL1): its letters' where they agree, the document's where they don't, and
 * left to right where it has none, as telephone numbers and codes are read.
 */
export function directionOfText(text: string, document: Direction): Direction {
  const isRtl = RTL_LETTER.test(text)
  if (isRtl && OTHER_LETTER.test(text)) return document
  return isRtl ? 'rtl' : 'ltr'
}

const NO_LETTER_BEFORE = '(?<![\\p{L}\\p{M}\\p{N}])'
const LEFT_TO_RIGHT = new RegExp(
  `${NO_LETTER_BEFORE}(?:${[
    // 2026-10-09, 2026-10-09T08:30:00Z
    '\\p{Nd}{4}-\\p{Nd}{2}(?:-\\p{Nd}{2}(?:[T ]\\p{Nd}{2}:\\p{Nd}{2}(?::\\p{Nd}{2})?(?:Z|[+-]\\p{Nd}{2}:?\\p{Nd}{2})?)?)?',
    // +93 (0)70 123 4567, 0799-123-456
    '(?:\\+|(?=[0\\u0660\\u06f0]))\\p{Nd}(?:[ ()-]{0,2}\\p{Nd}){6,14}',
    // RX-2231/7, 12-AB-34, a.b@clinic.af
    '(?=[\\w./:@#+-]*[A-Za-z])[A-Za-z0-9]+(?:[-_./:@#+]+[A-Za-z0-9]+)+',
    // -500, -500 AFN
    '[+\\u2212-]\\p{Nd}+(?:[.,\\u066b\\u066c]\\p{Nd}+)*(?: [A-Z]{3}(?![\\p{L}\\p{N}]))?',
  ].join('|')})(?![\\p{L}\\p{M}\\p{N}])`,
  'gu',
)

/**
 * Isolates dates, telephone numbers, codes and signed numbers in right-to-left text (UAX #9 HL3): left to themselves, the
 * parts of 2026-10-09 change places after an Arabic letter, and a sign goes to the number's right.
 */
export function isolateCodes(text: string): string {
  return text.replace(LEFT_TO_RIGHT, '\u2066$&\u2069')
}

/** UAX #9 L2: brings the parts of a line, each of one level, from logical into visual order, left to right. */
export function reorder<T extends { level: number }>(parts: readonly T[]): T[] {
  const visual = [...parts]
  const odd = parts.filter(({ level }) => level & 1).map(({ level }) => level)
  if (odd.length === 0) return visual
  const highest = Math.max(...parts.map(({ level }) => level))
  for (let level = highest; level >= Math.min(...odd); level--) {
    for (let start = 0; start < visual.length; start++) {
      let end = start
      while (end < visual.length && visual[end]!.level >= level) end++
      for (let left = start, right = end - 1; left < right; left++, right--) {
        ;[visual[left], visual[right]] = [visual[right]!, visual[left]!]
      }
      start = Math.max(start, end)
    }
  }
  return visual
}

/** A character beside a boundary of a line, and whether it was laid out right to left. */
export interface Edge {
  char: string
  isRtl: boolean
}

const [LRM, RLM] = ['\u200e', '\u200f']

/**
 * What must stand between two neighbours of a line so that pdftotext, which sees no levels, puts the line back in logical
 * order. On a right-to-left page it goes from the right: letters and neutrals are turned round up to the first
 * left-to-right letter or number, then nothing is up to the next right-to-left letter; spaces and brackets on the border
 * so end up on the wrong side of it. pdf.js leaves these marks out of what it reads.
 */
export function readerMark(page: Direction, left: Edge | undefined, right: Edge | undefined): string {
  if (left?.isRtl === right?.isRtl && !(page === 'rtl' && right?.isRtl)) return ''
  const [onLeft, onRight] = [leaning(left), leaning(right)]
  if (page === 'ltr') {
    if (left?.isRtl && right !== undefined && onRight === 'neutral') return LRM
    return right?.isRtl && onRight === 'neutral' ? RLM : ''
  }
  const rightRuns = right?.isRtl === false || onRight === 'ltr'
  if (left !== undefined && rightRuns && onLeft !== 'rtl') return RLM
  return left?.isRtl === false && onLeft === 'neutral' ? LRM : ''
}

/** As pdftotext's own table has it. */
function leaning(edge: Edge | undefined): Direction | 'neutral' {
  if (edge === undefined) return 'neutral'
  const type = bidi.getBidiCharTypeName(edge.char)
  // Its table takes the afghani's sign for a dollar's.
  if (edge.char === '؋') return 'ltr'
  if (type === 'R' || type === 'AL') return 'rtl'
  return /^(L|EN|AN|ES|ET|CS)$/.test(type) ? 'ltr' : 'neutral'
}
