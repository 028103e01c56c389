import { inspect } from 'node:util'
import type { Queryable } from '../../adapters/postgres/client.ts'
import { foldText, latinOf } from '../erasure/characters.ts'
import { fingerprintKey, fingerprintsOf } from '../erasure/fingerprint.ts'
import { type Identifier, NUMBER_DIGITS } from '../erasure/identifier.ts'
import { openPatternScanner, openScanner, type Scanner } from '../erasure/scanner.ts'
import { openPlainFinder } from './said-plainly.ts'

/** What names a patient; held in memory for as long as a check takes. */
export interface KnownPatient {
  id: string
  name: string
  phone: string | null
  email: string | null
  nationalId: string | null
  /** `1987-03-21` */
  bornOn?: string | null
  address?: string | null
}

/** In a transaction of the tenant's. */
export function knownPatients(tx: Queryable, ids: readonly string[]): Promise<KnownPatient[]> {
  return tx.query<KnownPatient>(
    `select id, name, phone, email, national_id as "nationalId", to_char(born_on, 'YYYY-MM-DD') as "bornOn", address
     from virtual_care.patient where id = any($1)`,
    [ids],
  )
}

/** Any value as text that can be looked into; JSON where there is any. */
export function textOf(value: unknown): string {
  try {
    return JSON.stringify(value, (_, one) => (typeof one === 'bigint' ? String(one) : one)) ?? ''
  } catch {
    // It holds itself.
    return inspect(value, { depth: 10, maxStringLength: null, maxArrayLength: null })
  }
}

/** What kinds of patient data a text holds, in whatever encoding; `kindsIn` returns each once, sorted. */
export interface PatientDataFinder {
  kindsIn(text: string): string[]
  /** Whether seven figures or more are a part of the phone number of one of these patients, or hold it. */
  holdsPartOfPhone(text: string): boolean
  /** Kinds of numbers of these patients that several values make together, in any order: `0700`, `123` and `456`. */
  kindsAcross(values: readonly string[]): string[]
}

/**
 * Finds the identifiers of these patients, each word of their names by itself, dates of birth and addresses, and what looks like anybody's: phone numbers, addresses, e-Tazkiras, codes of
 * diagnoses, clinical words.
 *
 * @param standing Text that stands in the templates, whoever is written to: a word of it (نور, Omid) may be a name, and is none.
 */
export function openPatientDataFinder(patients: readonly KnownPatient[], standing = ''): PatientDataFinder {
  const own = patients.length === 0 ? undefined : scannerOf(patients, standing)
  const plain = openPlainFinder(patients, standing)
  patterns ??= openPatternScanner()
  const anybodys = patterns
  return {
    kindsIn(text) {
      // Hex digits of an id, cut by its dashes, look like a number now and then.
      const withoutIds = text.replace(UUID, ' ')
      const kinds = new Set(anybodys.scan(withoutIds).map(({ kind }) => kind))
      for (const look of own ? [text, ...lookAlikes(text)] : [])
        for (const { kind } of own!.scan(look)) kinds.add(kind === 'part of a name' ? 'name' : kind)
      for (const kind of own ? plain(text) : []) kinds.add(kind)
      if (DIAGNOSIS.test(withoutIds)) kinds.add('diagnosis')
      if (CLINICAL.test(text)) kinds.add('clinical word')
      return [...kinds].sort()
    },
    holdsPartOfPhone(text) {
      const runs = foldText(text).match(/\d{7,}/g) ?? []
      return patients.some(({ phone }) => {
        const number = figuresOf(phone ?? '')
        return (
          number.length >= NUMBER_DIGITS &&
          runs.some((run) => number.includes(run) || run.includes(number.slice(-NUMBER_DIGITS)))
        )
      })
    },
    kindsAcross(values) {
      const pieces = values.flatMap(piecesOf).filter((piece) => piece !== '')
      const isMade = (number: string | null) => isMadeOf(figuresOf(number ?? ''), pieces)
      return [
        ...(patients.some(({ phone }) => isMade(phone)) ? ['phone'] : []),
        ...(patients.some(({ nationalId }) => isMade(nationalId)) ? ['national-id'] : []),
      ]
    },
  }
}

/** A text with the letters or figures for which others of it may stand: `0700l23O56`, Cyrillic letters in a Latin name. */
function lookAlikes(text: string): string[] {
  const latin = latinOf(text)
  const figures = /\d[OoОоIl]|[OoОоIl]\d/.test(text)
    ? text.replace(/[OoОо]/g, '0').replace(/[Il]/g, '1')
    : text
  return [latin, figures].filter((one) => one !== text)
}

const figuresOf = (text: string): string => foldText(text).replace(/\D/g, '')

/** The figures of a value; of one with letters, as a link's token, those that stand three or more together. */
function piecesOf(value: string): string[] {
  const folded = foldText(value)
  if (!/\p{L}/u.test(folded)) return [figuresOf(folded)]
  const runs = folded.match(/\d(?:[^\p{L}\d]*\d)*/gu) ?? []
  return runs.map(figuresOf).filter((run) => run.length >= 3)
}

/**
 * Whether several pieces, one after the other, make the last nine figures of a number: the first by its end, the last by its
 * beginning, those between them whole.
 */
function isMadeOf(number: string, pieces: readonly string[]): boolean {
  const core = number.slice(-NUMBER_DIGITS)
  const goesOn = (left: string, unused: readonly string[]): boolean =>
    unused.some(
      (piece, at) =>
        piece.startsWith(left) ||
        (left.startsWith(piece) && goesOn(left.slice(piece.length), unused.toSpliced(at, 1))),
    )
  const begins = (piece: string, at: number): boolean =>
    Array.from({ length: Math.min(piece.length, core.length - 1) }, (_, n) => n + 1).some(
      (length) =>
        core.startsWith(piece.slice(-length)) && goesOn(core.slice(length), pieces.toSpliced(at, 1)),
    )
  return core.length === NUMBER_DIGITS && pieces.some(begins)
}
// Its tables are made once in a process.
let patterns: Scanner | undefined

/** Items by a key, in the order in which keys are met first. */
export function groupedBy<K, T>(items: readonly T[], keyOf: (item: T) => K): Map<K, T[]> {
  const groups = new Map<K, T[]>()
  for (const item of items) {
    const key = keyOf(item)
    const group = groups.get(key)
    if (group) group.push(item)
    else groups.set(key, [item])
  }
  return groups
}

// The same matcher as for erased subjects; its key lives as long as the check.
function scannerOf(patients: readonly KnownPatient[], standing: string): Scanner {
  const key = fingerprintKey(crypto.getRandomValues(new Uint8Array(32)), 'patient data')
  const wanted = patients.flatMap((patient) =>
    fingerprintsOf(key, identifiersOf(patient)).fingerprints.map((one) => ({ subject: patient.id, ...one })),
  )
  const inTemplates = new Set(
    fingerprintsOf(key, [{ kind: 'part of a name', value: standing }]).fingerprints.map(({ fingerprint }) =>
      fingerprint.toString('hex'),
    ),
  )
  return openScanner(
    key,
    wanted.filter(
      ({ kind, fingerprint }) => kind !== 'part of a name' || !inTemplates.has(fingerprint.toString('hex')),
    ),
  )
}

function identifiersOf({ name, phone, email, nationalId }: KnownPatient): Identifier[] {
  const given: [Identifier['kind'], string | null][] = [
    ['name', name],
    ['part of a name', name],
    ['phone', phone],
    ['e-mail', email],
    ['national-id', nationalId],
  ]
  return given.flatMap(([kind, value]) => (value === null ? [] : [{ kind, value }]))
}

const UUID = /\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b/gi

// ICD-10 (`F32.1`, `B20`), without what a clinic's room or a paper size may be called.
const DIAGNOSIS = /(?<![\w-])[A-TV-Z]\d{2}(?:\.\d{1,2}(?![\d%])|(?=[\s,;:)]*(?:diag|ICD|تشخیص)))/

const CLINICAL =
  /\b(HIV|AIDS|tubercul\w+|hepatit\w+|cancer|tumou?r|syphilis|chlamydia|gonorrh\w+|pregnan\w+|abortion|miscarriage|depress\w+|schizophren\w+|epilep\w+|addict\w+|diabet\w+|diagnos\w+|biopsy|chemotherap\w+|psychiatr\w+)\b|ایدز|سرطان|سل ریوی|هپاتیت|سیفلیس|حامل(?:ه|گی)|سقط|افسردگی|صرع|اعتیاد|شکر خون|تشخیص/iu
