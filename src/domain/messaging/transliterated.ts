import { foldText } from '../erasure/characters.ts'

/**
 * The sounds of a word that everybody writes who transliterates it between Latin letters and those of Dari, Pashto and Urdu: its
 * consonants, letters of one sound as one, without those that are often left out or are vowels as well (v, w, y, a final h).
 */
export function soundsOf(word: string): string {
  const folded = foldText(word.normalize('NFD')).toLowerCase()
  return folded
    .replace(/kh|gh|sh|ch|zh|ph|ts/g, (two) => DIGRAPHS[two]!)
    .replace(/./gsu, (letter) => SOUNDS[letter] ?? '')
    .replace(/h$/, '')
    .replace(/(.)\1+/g, '$1')
}

/** Of both words together; with fewer, words of English are somebody's name now and then. */
export const FEWEST_SOUNDS = 7

const DIGRAPHS: Record<string, string> = {
  ...{ kh: 'خ', gh: 'غ', sh: 'ش', ch: 'چ', zh: 'ژ', ph: 'f', ts: 's' },
}
/** The letters of each sound. */
const SOUNDS: Record<string, string> = Object.fromEntries(
  [
    'bب',
    'pپ',
    'tتطټ',
    'sسصثڅ',
    'jج',
    'چ',
    'hحه',
    'xخ',
    'dدډ',
    'zزذضظځ',
    'rرړ',
    'ژږ',
    'شښ',
    'fف',
    'kcqgکگقغ',
    'lل',
    'mم',
    'nنڼں',
  ].flatMap((letters) => [...letters].map((letter) => [foldText(letter), letters[0]!])),
)
