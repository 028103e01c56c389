import type { Language } from './statement.ts'

/** How one language writes numbers, money and days. */
export interface Figures {
  count(value: number): string
  /** An amount without its currency, its sign on the left: for a left-to-right paragraph. */
  money(minor: bigint, currency: string): string
  /** A day as the table has it: in the calendar that the readers live by, year first. */
  day(isoDay: string): string
  /** A day in words, in either calendar. */
  longDay(isoDay: string, calendar: 'persian' | 'gregory'): string
}

// Readers of Dari and Pashto date by the Solar Hijri calendar.
const NUMERALS: Record<Language, { digits: string; calendar: 'persian' | 'gregory' }> = {
  'fa-AF': { digits: 'arabext', calendar: 'persian' },
  'ps-AF': { digits: 'arabext', calendar: 'persian' },
  ar: { digits: 'arab', calendar: 'gregory' },
  en: { digits: 'latn', calendar: 'gregory' },
}

// ISO 4217 where it is not two; `Intl` answers with what is customary in print, which for the afghani is none.
const MINOR_DIGITS: Record<string, number> = {
  ...Object.fromEntries(
    [
      'BIF',
      'CLP',
      'DJF',
      'GNF',
      'ISK',
      'JPY',
      'KMF',
      'KRW',
      'PYG',
      'RWF',
      'UGX',
      'UYI',
      'VND',
      'VUV',
      'XAF',
      'XOF',
      'XPF',
    ].map((code) => [code, 0]),
  ),
  ...Object.fromEntries(['BHD', 'IQD', 'JOD', 'KWD', 'LYD', 'OMR', 'TND'].map((code) => [code, 3])),
  CLF: 4,
  UYW: 4,
}

const REMEMBERED_DAYS = 5_000

const opened = new Map<Language, Figures>()

/** Writes numbers, money and days as the readers of a language do; exact for amounts of any size. */
export function figuresOf(language: Language): Figures {
  let figures = opened.get(language)
  if (figures === undefined) {
    // What `Intl` opens costs as much as a page.
    figures = openFigures(language)
    opened.set(language, figures)
  }
  return figures
}

function openFigures(language: Language): Figures {
  const { digits, calendar: own } = NUMERALS[language]
  const counts = new Intl.NumberFormat(language, { numberingSystem: digits, useGrouping: false })
  const digit = Array.from({ length: 10 }, (_, value) => counts.format(value))
  const inDigits = (text: string) => text.replace(/\d/g, (one) => digit[Number(one)]!)
  const parts = new Intl.NumberFormat(language, { numberingSystem: digits }).formatToParts(1234.5)
  const sign = (type: string) => parts.find((part) => part.type === type)!.value
  const [group, decimal] = [sign('group'), sign('decimal')]
  const calendars = new Map<string, Intl.DateTimeFormat>()
  const days = new Map<string, string>()

  const dayParts = (isoDay: string, calendar: string, month: 'long' | '2-digit') => {
    const key = `${calendar} ${month}`
    let format = calendars.get(key)
    if (format === undefined) {
      format = new Intl.DateTimeFormat(language, {
        calendar,
        numberingSystem: 'latn',
        timeZone: 'UTC',
        year: 'numeric',
        month,
        day: month === 'long' ? 'numeric' : '2-digit',
      })
      calendars.set(key, format)
    }
    const found = format.formatToParts(new Date(`${isoDay}T00:00:00Z`))
    return (type: string) => found.find((part) => part.type === type)?.value ?? ''
  }

  const once = (key: string, write: () => string): string => {
    let text = days.get(key)
    if (text === undefined) {
      text = write()
      if (days.size > REMEMBERED_DAYS) days.clear()
      days.set(key, text)
    }
    return text
  }

  return {
    count: (value) => counts.format(value),
    money(minor, currency) {
      // By hand, in a fifth of the time that `Intl` takes: a third of a statement's texts are amounts.
      const places = MINOR_DIGITS[currency] ?? 2
      const exact = (minor < 0n ? -minor : minor).toString().padStart(places + 1, '0')
      const whole = exact.length - places
      let text = minor < 0n ? '−' : ''
      for (let i = 0; i < exact.length; i++) {
        if (i === whole) text += decimal
        else if (i > 0 && i < whole && (whole - i) % 3 === 0) text += group
        text += digit[exact.charCodeAt(i) - 48]!
      }
      return text
    },
    day: (isoDay) =>
      once(isoDay, () => {
        if (language === 'en') return isoDay
        // A slash keeps Arabic-Indic numbers in order; over a hyphen they would change places (UAX #9 W4).
        if (own === 'gregory') return inDigits(isoDay.replaceAll('-', '/'))
        const part = dayParts(isoDay, own, '2-digit')
        return inDigits(`${part('year')}/${part('month')}/${part('day')}`)
      }),
    longDay: (isoDay, calendar) =>
      once(`${calendar} ${isoDay}`, () => {
        const part = dayParts(isoDay, calendar, 'long')
        return inDigits(`${part('day')} ${part('month')} ${part('year')}`)
      }),
  }
}
