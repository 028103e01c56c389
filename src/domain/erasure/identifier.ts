import { domainToUnicode } from 'node:url'
import { foldText } from './characters.ts'

export const IDENTIFIER_KINDS = [
  'phone',
  'national-id',
  'e-mail',
  'record-number',
  'name',
  'part of a name',
] as const
export type IdentifierKind = (typeof IDENTIFIER_KINDS)[number]

/** What names a person, as it was written down. */
export interface Identifier {
  kind: IdentifierKind
  value: string
}

/**
 * How a value is looked for. `international` and `national` are the two forms of a phone number; `number` is digits alone,
 * `labelled` digits too few to be told from any others without a name beside them; `word` is letters with digits.
 */
export const FORMS = ['international', 'national', 'number', 'labelled', 'word', 'name', 'e-mail'] as const
export type Form = (typeof FORMS)[number]

/** One way in which an identifier is looked for: digits are ASCII, letters folded, nothing stands between them. */
export interface Canonical {
  form: Form
  value: string
}

/** Numbers of this many digits or more are found anywhere; shorter ones would be mistaken for others. */
export const NUMBER_DIGITS = 9
export const LABELLED_DIGITS = 4
export const WORD_LETTERS = 5
/** Longer names, words and addresses are cut nowhere, and looked for nowhere. */
export const LONGEST = 100

/**
 * The canonical forms of an identifier: none when it cannot be searched for, since it is too short, or not of its kind.
 *
 * @param country Calling code of phone numbers that are written without one.
 */
export function canonicalForms({ kind, value }: Identifier, country: string): Canonical[] {
  const folded = foldText(value)
  switch (kind) {
    case 'phone':
      return phoneForms(folded, country)
    case 'e-mail': {
      const [local, domain = ''] = folded
        .trim()
        .toLowerCase()
        .split(/@(?=[^@]*$)/)
      const address = `${local}@${/xn--/.test(domain) ? foldText(domainToUnicode(domain)) : domain}`
      if (!/^[^\s@]+@[^\s@]+\.[^\s@]+$/.test(address) || address.length > LONGEST) return []
      return [{ form: 'e-mail', value: address }]
    }
    case 'name':
      return nameForms(folded)
    case 'part of a name':
      return [...new Set(wordsOf(folded))]
        .filter((word) => word.length >= SHORTEST_PART && word.length <= LONGEST)
        .map((value) => ({ form: 'name', value }))
    case 'national-id':
    case 'record-number':
      return numberForms(folded)
  }
}

function numberForms(folded: string): Canonical[] {
  const value = folded.replace(/[^\p{L}0-9]/gu, '')
  if (value.length > LONGEST) return []
  if (/^\d+$/.test(value)) {
    if (value.length >= NUMBER_DIGITS)
      return value.length <= LONGEST_NUMBER ? [{ form: 'number', value }] : []
    return value.length >= LABELLED_DIGITS ? [{ form: 'labelled', value }] : []
  }
  return value.length >= WORD_LETTERS && /\d.*\d.*\d/.test(value) ? [{ form: 'word', value }] : []
}

/** Digits that a window over the groups of a number may hold. */
export const LONGEST_NUMBER = 18

/** Letters of a name's word that is looked for by itself. */
const SHORTEST_PART = 3

const wordsOf = (folded: string): string[] => folded.split(/[^\p{L}]+/u).filter((word) => word !== '')

// Both orders: registers put the family's name first.
function nameForms(folded: string): Canonical[] {
  const words = wordsOf(folded)
  const values = [words, [...words].reverse(), [words.at(-1), ...words.slice(0, -1)]].map((one) =>
    one.join(''),
  )
  const fits = words.length >= 2 && words.join('').length >= WORD_LETTERS && words.join('').length <= LONGEST
  return fits ? [...new Set(values)].map((value) => ({ form: 'name', value })) : []
}

function phoneForms(folded: string, country: string): Canonical[] {
  const written = phoneReadings(folded.replace(/\D/g, ''))
  const plus = /^\s*\(?\+/.test(folded)
  const [subscriber] = plus ? [] : written.national
  const e164 =
    subscriber !== undefined && isNational(folded.replace(/\D/g, ''), country)
      ? country + subscriber
      : written.international.at(-1)
  if (e164 === undefined || e164.length < NUMBER_DIGITS || e164.length > 15) return []
  const national = e164.slice(callingCode(e164).length)
  return [
    { form: 'international', value: e164 },
    ...(national.length >= NUMBER_DIGITS ? [{ form: 'national', value: national } as const] : []),
  ]
}

// `0700 123 456` and `700 123 456` are national; `93 700 123 456` and `0093 …` are not.
const isNational = (digits: string, country: string): boolean =>
  !digits.startsWith('00') && (digits.startsWith('0') || (digits.length <= 10 && !digits.startsWith(country)))

/** What a string of digits can be as a phone number: E.164 without its plus, or a number within its country. */
export interface PhoneReadings {
  international: string[]
  national: string[]
}

export function phoneReadings(digits: string): PhoneReadings {
  const international: string[] = []
  const national: string[] = []
  const abroad = (number: string) => {
    international.push(number)
    // +93 (0)700 …: the trunk digit is left in although it is not dialled from abroad.
    const code = callingCode(number).length
    if (number[code] === '0') international.push(number.slice(0, code) + number.slice(code + 1))
  }
  if (digits.startsWith('00')) abroad(digits.slice(2))
  else if (digits.startsWith('011')) abroad(digits.slice(3))
  else if (digits.startsWith('0')) {
    national.push(digits.slice(1))
    abroad(digits.slice(1))
  } else {
    abroad(digits)
    national.push(digits)
  }
  return { international, national }
}

// ITU-T E.164, list of assigned country codes: of one digit, of two; all others have three.
const TWO_DIGITS = /^(2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58])/

/** The calling code with which an E.164 number begins. */
function callingCode(number: string): string {
  if (/^[17]/.test(number)) return number.slice(0, 1)
  return number.slice(0, TWO_DIGITS.test(number) ? 2 : 3)
}
