import bidiFactory, { type Bidi } from 'bidi-js'

// Its types take the module for one with a default export of its own.
const bidi = (bidiFactory as unknown as () => Bidi)()

export type Direction = 'ltr' | 'rtl'

const RTL_SCRIPT = String.raw`\p{Script=Arab}\p{Script=Hebr}\p{Script=Syrc}\p{Script=Thaa}\p{Script=Nkoo}`
const RTL_LETTER = new RegExp(`(?=\\p{L})[${RTL_SCRIPT}]`, 'u')
const OTHER_LETTER = new RegExp(`(?![${RTL_SCRIPT}])\\p{L}`, 'u')

/** What a text has of something in it that needs a closer look; found out once for each UTF-16 unit. */
export const TRAIT = {
  rtlLetter: 0x01,
  otherLetter: 0x02,
  /** Could move a character in a left-to-right paragraph: right-to-left letters, Arabic numbers, explicit formatting. */
  reorders: 0x04,
  /** Is neither a right-to-left letter nor takes its direction, as punctuation and spaces do. */
  notRtl: 0x08,
  /** A digit, or what holds a code together. */
  code: 0x10,
  /** Control characters other than the line feed, line separators, overrides. */
  unprintable: 0x20,
  surrogate: 0x40,
  mark: 0x80,
} as const

const TRAITS: [number, RegExp][] = [
  [TRAIT.rtlLetter, RTL_LETTER],
  [TRAIT.otherLetter, OTHER_LETTER],
  [
    TRAIT.reorders,
    /[\u0590-\u06ef\u06fa-\u08ff\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufb1d-\ufdff\ufe70-\ufeff]/,
  ],
  [
    TRAIT.notRtl,
    /[^\u200c\s!-/:-@[-`{-~\u00a0-\u00a9\u00ab-\u00b1\u00bb\u060c-\u061b\u061d-\u065f\u066d-\u06dc\u06e5-\u06e8\u06ee\u06ef\u06fa-\u070d\u2010-\u2027]/,
  ],
  [TRAIT.code, /[\p{Nd}\p{Cs}\-_./:@#+]/u],
  [TRAIT.unprintable, /(?!\n)[\p{Cc}\u2028\u202d\u202e]/u],
  [TRAIT.surrogate, /\p{Cs}/u],
  [TRAIT.mark, /\p{M}/u],
]
const KNOWN = 0x100
const traits = new Uint16Array(0x10000)

/** The traits (TRAIT) of a text's UTF-16 units, joined. */
export function traitsOf(text: string): number {
  let found = 0
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i)
    found |= traits[unit] || learnTraits(unit)
  }
  return found
}

function learnTraits(unit: number): number {
  const char = String.fromCharCode(unit)
  traits[unit] = TRAITS.reduce((all, [trait, has]) => (has.test(char) ? all | trait : all), KNOWN)
  return traits[unit]
}

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

/** A character's class (UAX #9, Bidi_Class) by its short name. */
export const bidiClassOf = (char: string): string => bidi.getBidiCharTypeName(char)

/**
 * Embedding levels of one paragraph (UAX #9, P2 to I2, and L1 for separators): one for each UTF-16 unit, or one for all.
 * Always of the whole paragraph: a line's levels depend on what stands before and after it.
 */
export function resolveLevels(
  paragraph: string,
  direction: Direction | 'auto',
): { levels: Uint8Array | number; base: number } {
  const has = traitsOf(paragraph)
  if (direction !== 'rtl' && !(has & TRAIT.reorders)) return { levels: 0, base: 0 }
  if (direction === 'rtl' && !(has & TRAIT.notRtl)) return { levels: 1, base: 1 }
  const text =
    has & TRAIT.surrogate
      ? paragraph.replace(BEYOND_BMP, (char) => (STAND_IN[bidi.getBidiCharTypeName(char)] ?? 'a').repeat(2))
      : paragraph
  const { levels, paragraphs } = bidi.getEmbeddingLevels(text, direction)
  return { levels, base: paragraphs[0]?.level ?? 0 }
}

/**
 * The direction of a text that is given (UAX #9 HL1): its letters' where they agree, the document's where they don't, and
 * left to right where it has none, as telephone numbers and codes are read.
 */
export function directionOfText(text: string, document: Direction): Direction {
  const has = traitsOf(text)
  const isBeyond = (has & TRAIT.surrogate) !== 0
  const isRtl = (has & TRAIT.rtlLetter) !== 0 || (isBeyond && RTL_LETTER.test(text))
  if (isRtl && (has & TRAIT.otherLetter || (isBeyond && OTHER_LETTER.test(text)))) return document
  return isRtl ? 'rtl' : 'ltr'
}

const LEFT_TO_RIGHT = [
  // 2026-10-09, 2026-10-09T08:30:00Z
  String.raw`\p{Nd}{4}-\p{Nd}{2}(?:-\p{Nd}{2}(?:[T ]\p{Nd}{2}:\p{Nd}{2}(?::\p{Nd}{2})?(?:Z|[+-]\p{Nd}{2}:?\p{Nd}{2})?)?)?`,
  // +93 (0)70 123 4567, 0799-123-456
  String.raw`(?:\+|(?=[0\u0660\u06f0]))\p{Nd}(?:[ ()-]{0,2}\p{Nd}){6,14}`,
  // 100mg, 12-AB-34; RX-2231/7 and a.b@clinic.af are left to right by their first letter. Bounded, or 1-1-1-… would take forever.
  String.raw`(?=[\w./:@#+-]{0,99}[A-Za-z])\d[A-Za-z0-9]{0,49}(?:[-_./:@#+]{1,3}[A-Za-z0-9]{1,50}){0,20}`,
  // -500, -500 AFN
  String.raw`[+\u2212-]\p{Nd}+(?:[.,\u066b\u066c]\p{Nd}+)*(?: [A-Z]{3}(?![\p{L}\p{N}]))?`,
]
const CODE_OR_LETTER = new RegExp(
  String.raw`(?<code>(?<![\p{L}\p{M}\p{N}])(?:${LEFT_TO_RIGHT.join('|')})(?![\p{L}\p{M}\p{N}]))|(?<latin>(?![${RTL_SCRIPT}])\p{L})|[\p{L}\p{Pe}\u00bb\u060c\u061b\u061f]`,
  'gsu',
)

const MAY_HAVE_CODE =
  /[+\u2212-]\p{Nd}|[+0\u0660\u06f0]\p{Nd}{2}|\p{Nd}[ ()-]\p{Nd}|\d[A-Za-z]|[A-Za-z0-9][-_./:@#+]+[A-Za-z0-9]/u

/**
 * Isolates dates, telephone numbers, codes and signed numbers among right-to-left letters (UAX #9 HL3): after an Arabic letter
 * the parts of 2026-10-09 would change places, and a sign go to its number's right. After a Latin letter, with no bracket
 * closed in between, they belong to the words before them and stay as they are.
 */
export function isolateCodes(text: string): string {
  if (!(traitsOf(text) & TRAIT.code) || !MAY_HAVE_CODE.test(text)) return text
  let isAfterLatin = false
  return text.replace(CODE_OR_LETTER, (found, ...rest) => {
    const { code, latin } = rest.at(-1) as { code?: string; latin?: string }
    if (code !== undefined) return isAfterLatin ? code : `\u2066${code}\u2069`
    isAfterLatin = latin !== undefined
    return found
  })
}

/** UAX #9 L2: brings the parts of a line, each of one level, from logical into visual order, left to right. */
export function reorder<T extends { level: number }>(parts: readonly T[]): T[] {
  const visual = [...parts]
  let highest = 0
  let lowestOdd = Number.POSITIVE_INFINITY
  for (const { level } of parts) {
    highest = Math.max(highest, level)
    if (level & 1) lowestOdd = Math.min(lowestOdd, level)
  }
  for (let level = highest; level >= lowestOdd; level--) {
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
