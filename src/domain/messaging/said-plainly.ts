import { foldText } from '../erasure/characters.ts'
import type { KnownPatient } from './patient-data.ts'
import { FEWEST_SOUNDS, soundsOf } from './transliterated.ts'

/**
 * What the scanner's fingerprints are not made for, of these patients, in text as it stands, in no encoding: a date of birth in the
 * calendars of Europe and of Afghanistan, an address, a whole name glued to other signs or transliterated, a national id whatever
 * parts its figures.
 * Each kind that there is.
 *
 * @param standing Text of the templates: what it says itself (the quarter that the clinic lies in) says nothing of a patient.
 */
export function openPlainFinder(
  patients: readonly KnownPatient[],
  standing: string,
): (text: string) => Set<string> {
  const stands = squashed(standing)
  const words = patients.flatMap(({ name, address }) => [
    ...['name', 'address'].map((kind) => ({
      kind,
      said: squashed((kind === 'name' ? name : address) ?? ''),
    })),
    { kind: 'name', said: squashed(name.split(/\s+/).reverse().join('')) },
  ])
  const looked = words.filter(({ said }) => said.length >= SHORTEST && !stands.includes(said))
  const sounds = new Set(patients.flatMap(({ name }) => soundsOfName(name)))
  const dates = new Set(patients.flatMap(({ bornOn }) => (bornOn ? writtenDates(bornOn) : [])))
  const ids = patients.flatMap(({ nationalId }) => squashed(nationalId ?? '').match(/^\d{9,}$/) ?? [])
  return (text) => {
    const folded = foldText(text)
    const squeezed = squashed(folded)
    const kinds = new Set(looked.filter(({ said }) => squeezed.includes(said)).map(({ kind }) => kind))
    if (sounds.size > 0 && namesIn(folded).some((name) => sounds.has(name))) kinds.add('name')
    if (dates.size > 0 && datesIn(folded).some((date) => dates.has(date))) kinds.add('date of birth')
    const figures = ids.length > 0 ? folded.replace(/\D/g, '') : ''
    if (ids.some((id) => figures.includes(id))) kinds.add('national-id')
    return kinds
  }
}

/** Letters of a name or an address that nothing else holds by chance. */
const SHORTEST = 8
/** Days of the last years are when somebody comes, and no dates of birth that tell of anybody. */
const YOUNGEST = 2

const squashed = (text: string): string => foldText(text).replace(/[^\p{L}\p{N}]/gu, '')

/** A name of two words or more by the sounds of the first and the last, either way round; none where they are few. */
function soundsOfName(name: string): string[] {
  const [first = '', ...others] = wordsOf(name).map(soundsOf)
  const last = others.at(-1) ?? ''
  return first === '' || last === '' || first.length + last.length < FEWEST_SOUNDS
    ? []
    : [`${first} ${last}`, `${last} ${first}`]
}

/** All words of a text with the next one, and with the one behind it, by their sounds. */
function namesIn(text: string): string[] {
  const words = wordsOf(text).map(soundsOf)
  return words.flatMap((word, n) => [`${word} ${words[n + 1]}`, `${word} ${words[n + 2]}`])
}

const wordsOf = (text: string): string[] => text.match(/\p{L}[\p{L}\p{M}]*/gu) ?? []

/** A day as `1987-3-21`, in both calendars; none for whoever was born of late. */
function writtenDates(bornOn: string): string[] {
  const day = new Date(`${bornOn}T12:00:00Z`)
  if (Number.isNaN(day.getTime()) || day.getUTCFullYear() > new Date().getUTCFullYear() - YOUNGEST) return []
  return CALENDARS.map((calendar) => {
    const of = Object.fromEntries(calendar.formatToParts(day).map(({ type, value }) => [type, value]))
    return `${Number(of.year)}-${of.month}-${of.day}`
  })
}
const CALENDARS = ['gregory', 'persian'].map(
  (calendar) =>
    new Intl.DateTimeFormat(`en-u-ca-${calendar}-nu-latn`, {
      ...{ year: 'numeric', month: 'numeric', day: 'numeric', timeZone: 'UTC' },
    }),
)

/** All days that are written in a text, in any order of year, month and day, as `1987-3-21`. */
function* eachDate(text: string): Generator<[year: string, one: string, other: string]> {
  for (const [, a, b, c] of text.matchAll(
    /(?<!\d)(?=(\d{1,4})[^\p{L}\d]{1,3}(\d{1,2})[^\p{L}\d]{1,3}(\d{1,4})(?!\d))/gu,
  )) {
    if (a!.length === 4) yield [a!, b!, c!]
    if (c!.length === 4) yield [c!, a!, b!]
  }
  for (const [whole] of text.matchAll(/(?<!\d)\d{8}(?!\d)/g)) {
    yield [whole.slice(0, 4), whole.slice(4, 6), whole.slice(6)]
    yield [whole.slice(4), whole.slice(0, 2), whole.slice(2, 4)]
  }
  for (const [, a, word, c] of text.matchAll(
    /(?<!\d)(\d{1,4})[^\p{L}\d]{0,3}(\p{L}{3,})[^\p{L}\d]{1,3}(\d{1,4})(?!\d)/gu,
  )) {
    const month = monthOf(word!)
    if (month > 0) yield a!.length === 4 ? [a!, String(month), c!] : [c!, String(month), a!]
  }
  for (const [, word, b, c] of text.matchAll(
    /(\p{L}{3,})[^\p{L}\d]{1,3}(\d{1,2})[^\p{L}\d]{1,3}(\d{4})(?!\d)/gu,
  )) {
    const month = monthOf(word!)
    if (month > 0) yield [c!, String(month), b!]
  }
}

function datesIn(text: string): string[] {
  return [...eachDate(text)].flatMap(([year, one, other]) => {
    const [y, a, b] = [year, one, other].map(Number)
    return [`${y}-${a}-${b}`, `${y}-${b}-${a}`]
  })
}

/** The number of a month of either calendar by its name, English ones by three letters; 0 for any other word. */
function monthOf(word: string): number {
  const english = ENGLISH.indexOf(word.toLowerCase().slice(0, 3))
  if (english >= 0 && english % 3 === 0) return english / 3 + 1
  return 1 + Math.max(...SOLAR.map((names) => names.indexOf(word)))
}
const ENGLISH = 'janfebmaraprmayjunjulaugsepoctnovdec'
/** As they are said in Afghanistan, in Dari and Pashto, and in Iran. */
const SOLAR = [
  'حمل ثور جوزا سرطان اسد سنبله میزان عقرب قوس جدی دلو حوت',
  'وری غویی غبرگولی چنگاښ زمری وږی تله لړم لیندی مرغومی سلواغه کب',
  'فروردین اردیبهشت خرداد تیر مرداد شهریور مهر آبان آذر دی بهمن اسفند',
].map((names) => names.split(' ').map((name) => foldText(name)))
