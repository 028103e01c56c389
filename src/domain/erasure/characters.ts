/** What a code point is to whoever looks for identifiers. */
export const OTHER = 0
export const DIGIT = 1
export const LETTER = 2
/** Stands between the groups of a number or the words of a name. */
export const SEPARATOR = 3
/** Is not seen, and says nothing: bidi marks, joiners, soft hyphens, tatweel, vowel signs, a key's cap around a digit. */
export const IGNORED = 4

/** `kind` and `fold` by code point of the basic plane; see `characters`. */
export interface Characters {
  kind: Uint8Array
  /** Of a digit its value, of a letter the letter that all its variants become. */
  fold: Uint16Array
}

/**
 * The tables by which every way to write a digit or a letter becomes one: compatibility forms (fullwidth, mathematical,
 * presentation forms), case, accents, and the Arabic and Persian letters that keyboards mix up. Made when first asked for,
 * in some 50 ms.
 */
export function characters(): Characters {
  tables ??= makeTables()
  return tables
}
let tables: Characters | undefined

/** The kind of any code point; letters beyond the basic plane are mathematical ones. */
export function kindOf({ kind }: Characters, codePoint: number): number {
  if (codePoint < 0x10000) return kind[codePoint]!
  if (figureBeyond(codePoint) !== undefined) return DIGIT
  if (codePoint >= 0x1d400 && codePoint <= 0x1d6a3) return LETTER
  return codePoint >= 0xe0000 && codePoint <= 0xe01ef ? IGNORED : OTHER
}

export function foldOf({ fold }: Characters, codePoint: number): number {
  if (codePoint < 0x10000) return fold[codePoint]!
  // Alphabets of 26 capitals and 26 small letters each.
  return figureBeyond(codePoint) ?? 0x61 + ((codePoint - 0x1d400) % 26)
}

/** The value of a digit beyond the basic plane: of a script's, a mathematical or a segmented one, or one with a comma. */
function figureBeyond(codePoint: number): number | undefined {
  if (codePoint >= 0x1d7ce && codePoint <= 0x1d7ff) return (codePoint - 0x1d7ce) % 10
  if (codePoint === 0x1f100) return 0
  if (codePoint > 0x1f100 && codePoint <= 0x1f10a) return codePoint - 0x1f101
  const past = codePoint > 0x1fbf9 ? undefined : ZEROS_BEYOND.find((zero) => codePoint < zero + 10)
  return past === undefined || codePoint < past ? undefined : codePoint - past
}
/** Of the scripts beyond the basic plane, in order (The Unicode Standard, DerivedNumericType). */
const ZEROS_BEYOND = [
  0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0, 0x11650, 0x116c0, 0x11730,
  0x118e0, 0x11950, 0x11c50, 0x11d50, 0x11da0, 0x11f50, 0x16a60, 0x16ac0, 0x16b50, 0x1e140, 0x1e2f0, 0x1e4f0,
  0x1e950, 0x1fbf0,
]

/** Text with what is ignored left out and the rest folded; digits become ASCII, everything else keeps its place. */
export function foldText(text: string): string {
  const table = characters()
  let folded = ''
  for (const character of text.normalize('NFKC')) {
    const codePoint = character.codePointAt(0)!
    switch (kindOf(table, codePoint)) {
      case IGNORED:
        break
      case DIGIT:
        folded += foldOf(table, codePoint)
        break
      case LETTER:
        folded += String.fromCharCode(foldOf(table, codePoint))
        break
      default:
        folded += character
    }
  }
  return folded
}

/** With Latin letters for the Cyrillic and Greek ones that look the same. */
export const latinOf = (text: string): string =>
  text.replace(/[\u0370-\u052f]/g, (letter) => LATIN[LOOK_LATIN.indexOf(letter)] ?? letter)
const LOOK_LATIN = 'аеорсухіјѕһԁԛԝвкмнтɡοανρικυτεχηωγ'
const LATIN = 'aeopcyxijshdqwbkmhtgoavpikutexnwy'

function makeTables(): Characters {
  const kind = new Uint8Array(0x10000)
  const fold = new Uint16Array(0x10000)
  for (let codePoint = 0; codePoint < 0x10000; codePoint++) {
    const range = codePoint >= 0x3400 ? RANGES.find(({ first }) => first === codePoint) : undefined
    if (range) {
      for (; codePoint <= range.last; codePoint++) {
        kind[codePoint] = range.kind
        fold[codePoint] = range.foldOf(codePoint)
      }
    }
    const character = String.fromCharCode(codePoint)
    const whole = character.toLowerCase().normalize('NFKD')
    const [plain = ''] = whole
    if (/^[0-9]$/.test(whole)) {
      kind[codePoint] = DIGIT
      fold[codePoint] = Number(whole)
    } else if (IGNORABLE.test(character)) kind[codePoint] = IGNORED
    else if (BETWEEN.test(whole) || BETWEEN.test(character)) kind[codePoint] = SEPARATOR
    else if (/^\p{L}$/u.test(plain)) {
      kind[codePoint] = LETTER
      fold[codePoint] = SAME_LETTER[plain]?.charCodeAt(0) ?? plain.charCodeAt(0)
    }
  }
  const digits = (one: number, count: number, value: number) => {
    for (let n = 0; n < count; n++) {
      kind[one + n] = DIGIT
      fold[one + n] = value + n
    }
  }
  for (const zero of zeros(kind)) digits(zero, 10, 0)
  for (const one of ONES) digits(one, 9, 1)
  digits(0x24ff, 1, 0)
  return { kind, fold }
}

// Most of the plane is told by rule, which halves the time.
const RANGES = [
  // CJK unified ideographs, of extension A and the first block.
  { first: 0x3400, last: 0x4dbf, kind: LETTER, foldOf: (codePoint: number) => codePoint },
  { first: 0x4e00, last: 0x9fff, kind: LETTER, foldOf: (codePoint: number) => codePoint },
  // Hangul syllables, by their first consonant (The Unicode Standard, section 3.12).
  {
    first: 0xac00,
    last: 0xd7a3,
    kind: LETTER,
    foldOf: (codePoint: number) => 0x1100 + Math.floor((codePoint - 0xac00) / 588),
  },
  // Surrogates and private use.
  { first: 0xd800, last: 0xf8ff, kind: OTHER, foldOf: () => 0 },
]

/** Decimal digits come in tens, in order (The Unicode Standard, section 4.6). */
function* zeros(kind: Uint8Array): Generator<number> {
  for (let codePoint = 0x660; codePoint < 0xff20; codePoint++) {
    if (kind[codePoint] !== OTHER || (codePoint >= 0xd800 && codePoint < 0xf900)) continue
    if (!/^\p{Nd}$/u.test(String.fromCharCode(codePoint))) continue
    yield codePoint
    codePoint += 9
  }
}

/** Ones that are followed by the others to nine: in brackets, with a full stop, in circles of all kinds. */
const ONES = [0x2474, 0x2488, 0x24f5, 0x2776, 0x2780, 0x278a]

const IGNORABLE = /^[\p{Cf}\p{Mn}\p{Me}\u0640\u115f\u1160\u3164]$/u
const BETWEEN = /^[\p{Z}\p{Pd}\t ._/()+~*,;|^·•‧․⁄∕−،؛٫٬、]$/u

/** What keyboards for Arabic, Persian, Pashto and Urdu make of one letter. */
const SAME_LETTER: Record<string, string> = {
  ك: 'ک',
  ڪ: 'ک',
  ي: 'ی',
  ى: 'ی',
  ې: 'ی',
  ۍ: 'ی',
  ے: 'ی',
  ة: 'ه',
  ۀ: 'ه',
  ە: 'ه',
  ہ: 'ه',
  ھ: 'ه',
  ٱ: 'ا',
  ګ: 'گ',
}
