/** What the name of a field tells of its value. */
export const PHONE = 1
/** A part of a number: `prefix`, `rest`, `code`. */
export const PART = 2
/** The part of a phone number that comes first: `country_code`, `area`. */
export const DIAL = 4
/** A part as well, of what another word of the name says: `tazkira_page`, and not every `page`. */
const WEAK = 16
/** A register's number: `tazkira`, `mrn`. */
export const RECORD = 8

/**
 * What a field's name says, by its words; 0 when it has none that we know, or when no name stands before `at`.
 *
 * @param at Where the value begins: `"phone_prefix":"`, `phonePrefix=`, `<phone-prefix>` end here.
 */
export function fieldBefore(bytes: Uint8Array, at: number, from: number): number {
  let end = at - 1
  const first = Math.max(from, at - 16)
  while (end >= first && OPENS[bytes[end]!] === 1) end--
  if (end < first || OPENS[bytes[end]!] !== 2) return 0
  end--
  while (end >= first && OPENS[bytes[end]!] === 1) end--
  const meaning = meaningOf(bytes, from, end + 1)
  return endsValue(bytes, end) ? meaning | namedBefore(bytes, from, end - 4) : meaning
}

/** What the name says in `{"name":"phone_prefix","value":"0700"}`, whose value is at `at`. */
function namedBefore(bytes: Uint8Array, from: number, at: number): number {
  let end = at - 1
  const first = Math.max(from, at - 8)
  while (end >= first && (OPENS[bytes[end]!] === 1 || bytes[end] === 0x2c || bytes[end] === 0x22)) end--
  return end < first ? 0 : meaningOf(bytes, from, end + 1)
}

const endsValue = (bytes: Uint8Array, end: number): boolean =>
  bytes[end] === 0x65 &&
  bytes[end - 1] === 0x75 &&
  bytes[end - 2] === 0x6c &&
  bytes[end - 3] === 0x61 &&
  (bytes[end - 4]! | 0x20) === 0x76

/** What a free word before a number says: `tel 0700…`, `mobile no. 700…`. */
export function labelBefore(bytes: Uint8Array, at: number, from: number): number {
  let end = at - 1
  const first = Math.max(from, at - 8)
  while (end >= first && (OPENS[bytes[end]!] !== 0 || bytes[end] === 0x2e || bytes[end] === 0x23)) end--
  const meaning = meaningOf(bytes, from, end + 1)
  if (meaning === 0 || (meaning & (PHONE | RECORD)) !== 0) return meaning
  // `patient no`: the word before the last says what kind.
  while (end >= from && NAME[bytes[end]!] !== 0) end--
  return meaning | meaningOf(bytes, from, end)
}

// From its last letter: a name whose last word says nothing is none of ours.
function meaningOf(bytes: Uint8Array, from: number, end: number): number {
  const first = Math.max(from, end - LONGEST_NAME)
  let meaning = 0
  let hash = EMPTY
  for (let at = end - 1; at >= first; at--) {
    const byte = bytes[at]!
    const kind = NAME[byte]
    if (kind === 1) {
      hash = Math.imul(hash ^ (byte | 0x20), 0x01000193)
      // camelCase: a capital after a small letter begins a word.
      const begins = byte >= 0x41 && byte <= 0x5a && at > first && bytes[at - 1]! >= 0x61
      if (!begins && at > first) continue
    }
    if (hash !== EMPTY) {
      const word = MEANINGS.get(hash)
      if (word === undefined && meaning === 0) return 0
      meaning |= word ?? 0
      hash = EMPTY
    }
    if (kind === 0) break
  }
  if ((meaning & WEAK) === 0) return meaning
  return meaning === WEAK ? 0 : (meaning & ~WEAK) | PART
}

const LONGEST_NAME = 48

/** 1: quotes, spaces, brackets and signs around a value; 2: what stands between name and value. */
const OPENS = new Uint8Array(256)
for (const sign of ' \t"\'`\\([{+\r\n') OPENS[sign.charCodeAt(0)] = 1
for (const sign of ':=>') OPENS[sign.charCodeAt(0)] = 2

/** 1: letters; 2: what joins the words of a name. */
const NAME = new Uint8Array(256)
for (const sign of '0123456789_-.]') NAME[sign.charCodeAt(0)] = 2
NAME[0x5b] = 2
for (let letter = 0; letter < 26; letter++) NAME[0x41 + letter] = NAME[0x61 + letter] = 1
// Persian words, byte by byte.
for (let byte = 0x80; byte < 0x100; byte++) NAME[byte] = 1

// FNV-1a, to find words without making strings of them.
const EMPTY = 0x811c9dc5 | 0
function hashOf(word: string): number {
  let hash = EMPTY
  for (const byte of Buffer.from(word).reverse()) hash = Math.imul(hash ^ (byte | 0x20), 0x01000193)
  return hash
}

const WORDS: Record<number, string> = {
  [PHONE]:
    'phone phones mobile cell cellphone tel telephone msisdn fax whatsapp viber imo telegram sms contact recipient ' +
    'caller callee landline handset phoneno phonenumber mobileno telno call calls called dialed ' +
    'تلفن تلیفون موبایل مبایل شماره تماس همراه ټلیفون شمېره',
  [PART]:
    'suffix rest id ids number num no nr code part head tail first last second local line subscriber operator network ' +
    'ndc sn nsn start end begin middle left right digits body value a b c d main',
  [WEAK]: 'exchange station volume page row',
  [DIAL]: 'prefix country dial dialing dialling calling area cc idd ccode countrycode areacode region',
  [RECORD]:
    'tazkira tazkera tazkirah taskera nid national nationalid ssn passport identity mrn record chart file patient ' +
    'patientid patientno hospital register registration idcard idnumber تذکره تذکرہ پرونده دوسیه',
}
const MEANINGS = new Map<number, number>()
for (const [meaning, words] of Object.entries(WORDS)) {
  for (const word of words.split(' ')) {
    const hash = hashOf(word)
    MEANINGS.set(hash, (MEANINGS.get(hash) ?? 0) | Number(meaning))
  }
}
