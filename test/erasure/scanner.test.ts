import { deflateRawSync, deflateSync, gzipSync } from 'node:zlib'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { identifiersOf, logLine } from '../../bench/erasure/log.ts'
import { fingerprintKey, fingerprintsOf } from '../../src/domain/erasure/fingerprint.ts'
import type { Identifier } from '../../src/domain/erasure/identifier.ts'
import { type Hit, openScanner, type Wanted } from '../../src/domain/erasure/scanner.ts'
import { SipHash } from '../../src/domain/erasure/siphash.ts'
import { ENCODINGS, WRITINGS } from '../../src/domain/erasure/writings.ts'
import { randomFrom } from '../../src/sandbox/random.ts'

const SECRET = Buffer.alloc(32, 7)
const KEY = fingerprintKey(SECRET, 'herat')

const wantedOf = (subject: string, identifiers: readonly Identifier[], key = KEY): Wanted[] =>
  fingerprintsOf(key, identifiers).fingerprints.map((one) => ({ subject, ...one }))

const FARIDA: Identifier[] = [
  { kind: 'phone', value: '+93700123456' },
  { kind: 'national-id', value: '1400-0101-12345' },
  { kind: 'e-mail', value: 'Farida.Ahmadi@example.af' },
  { kind: 'record-number', value: 'KBL-2024-001234' },
  { kind: 'record-number', value: '482913' },
  { kind: 'name', value: 'فریده احمدی' },
  { kind: 'name', value: 'Farida Ahmadi' },
]
const farida = openScanner(KEY, wantedOf('farida', FARIDA))
const kindsIn = (text: string | Uint8Array): string[] => [
  ...new Set(farida.scan(text).map(({ kind }) => kind)),
]

// 1,000 erased persons, of whom every text below may hold anybody.
const PERSONS = 1_000
const many = openScanner(
  KEY,
  Array.from({ length: PERSONS }, (_, person) => wantedOf(String(person), identifiersOf(person))).flat(),
)
const subjectsIn = (text: string | Uint8Array): string[] => [
  ...new Set(many.scan(text).map(({ subject }) => subject)),
]

describe('an identifier is found', () => {
  test('in every writing, in every encoding', () => {
    const missed = WRITINGS.flatMap((writing) =>
      ENCODINGS.flatMap((encoding) =>
        FARIDA.filter(({ value }) => value !== '482913').flatMap((identifier) => {
          const written = writing.write(identifier)
          if (written === undefined) return []
          const line = Buffer.concat([
            Buffer.from('{"ts":"2026-11-24T15:41:03.123Z","v":"'),
            Buffer.from(encoding.encode(written) as string),
            Buffer.from('","status":200}\n'),
          ])
          return kindsIn(line).includes(identifier.kind)
            ? []
            : [`${identifier.kind} ${writing.name}, ${encoding.name}`]
        }),
      ),
    )
    expect(missed).toEqual([])
  })

  test('in octal bytes, though they may be read as decimal ones', () => {
    const octal = [...'+93700123456'].map((char) => char.charCodeAt(0).toString(8).padStart(3, '0')).join(' ')
    expect(kindsIn(octal)).toEqual(['phone'])
  })

  const arbitraryPerson = fc.integer({ min: 0, max: PERSONS - 1 })
  const encodingWithin = fc.constantFrom(
    ...ENCODINGS.filter(({ name }) => name !== 'UTF-16' && name !== 'base64 within longer text'),
  )

  test('in any encoding within any other, among any text', () => {
    fc.assert(
      fc.property(
        arbitraryPerson,
        fc.integer({ min: 0, max: 3 }),
        fc.constantFrom(...WRITINGS),
        encodingWithin,
        encodingWithin,
        fc.string({ unit: 'grapheme', maxLength: 60 }),
        fc.string({ unit: 'grapheme', maxLength: 60 }),
        (person, which, writing, inner, outer, before, after) => {
          const identifier = identifiersOf(person)[which]!
          const written = writing.write(identifier)
          fc.pre(written !== undefined)
          const text = String(outer.encode(String(inner.encode(written!))))
          return subjectsIn(`${before}\n{"note":"seen ${text} today"}\n${after}`).includes(String(person))
        },
      ),
      { numRuns: 700 },
    )
  })

  test('in any digits of any script, with anything that is not seen between them', () => {
    const invisible = fc.constantFrom('', '\u200c', '\u200f', '\u2069', '\u00ad', '\ufeff', 'ـ', '\u064e')
    const separator = fc.constantFrom(
      '',
      ' ',
      '-',
      '.',
      '/',
      ' - ',
      '\u00a0',
      '\u2007',
      '\u202f',
      '\u2011',
      '\u2212',
    )
    const zero = fc.constantFrom(0x30, 0x660, 0x6f0, 0x966, 0xff10, 0x1d7ce)
    const sign = fc.tuple(zero, invisible)
    fc.assert(
      fc.property(
        arbitraryPerson,
        fc.array(sign, { minLength: 20, maxLength: 20 }),
        fc.tuple(separator, separator),
        fc.constantFrom('0', '+93 ', '+93 (0)', '0093-', '93', '(0)'),
        (person, signs, [one, two], prefix) => {
          const number = identifiersOf(person)[0]!.value.slice(3)
          const grouped = `${prefix}${number.slice(0, 2)}${one}${number.slice(2, 5)}${two}${number.slice(5)}`
          let at = 0
          const text = grouped.replace(/\d/g, (digit) => {
            const [code, after] = signs[at++ % signs.length]!
            return String.fromCodePoint(code + Number(digit)) + after
          })
          return subjectsIn(`به ${text} پیام`).includes(String(person))
        },
      ),
      { numRuns: 500 },
    )
  })

  test.each([
    ['JSON', '{"phone_prefix":"070","phone_rest":"0123456"}'],
    ['numbers', '{"countryCode":93,"number":700123456}'],
    [
      'fields in the other order, and others between',
      '{"number":"0123456","at":"2026-11-24","n":200,"prefix":"070"}',
    ],
    ['three fields', '{"phone":{"countryCode":"+93","areaCode":"70","number":"0123456"}}'],
    ['a list', '{"phone":["070","0123456"]}'],
    ['a form', 'country_code=%2B93&number=700123456'],
    ['logfmt', 'msg=x phone_prefix=070 phone_rest=0123456 n=5'],
    ['XML', '<tel><prefix>0700</prefix><rest>123456</rest></tel>'],
    ['lines', 'phone_prefix: "070"\nphone_rest: "0123456"\n'],
    ['JSON in a string', JSON.stringify(JSON.stringify({ phone_a: '0700', phone_b: '123456' }))],
    ['Persian digits', '{"phone_prefix":"۰۷۰","phone_rest":"۰۱۲۳۴۵۶"}'],
    ['columns', 'id;070;0123456;delivered'],
  ])('split over two fields: %s', (_, text) => {
    expect(kindsIn(text)).toEqual(['phone'])
  })

  test('of few digits, beside a word that says what they are', () => {
    expect(kindsIn('{"mrn":"482913"}')).toEqual(['record-number'])
    expect(kindsIn('patient no. 482913 came')).toEqual(['record-number'])
    expect(kindsIn('{"tookMs":482913}')).toEqual([])
  })

  test('of ten digits, wherever it stands', () => {
    const paper = openScanner(KEY, wantedOf('somebody', [{ kind: 'national-id', value: '14001-00000' }]))
    for (const text of [
      '"national_id":"14001-00000"',
      'x 14001-00000 y',
      'nid=1400100000',
      'no. ۱۴۰۰۱۰۰۰۰۰',
    ]) {
      expect(paper.scan(text), text).toHaveLength(1)
    }
  })

  test('by names in any order and letters of any keyboard', () => {
    for (const text of [
      'AHMADI, Farida',
      'FaridaAhmadi',
      'فريده  احمدي',
      'فـری‌ده احمدی',
      'احمدی فریده',
      'Fárida Ahmadi',
    ]) {
      expect(kindsIn(`x ${text} y`), text).toEqual(['name'])
    }
    expect(kindsIn('Farida Karimi, Ahmadi Square')).toEqual([])
  })

  test('beside marks of any script, line breaks of JSON and colours of a terminal', () => {
    const sides: [before: string, after: string][] = [
      ['«', '»'],
      ['“', '”'],
      ['\u00a0', '\u00a0'],
      ['به،', '،'],
      ['—', '—'],
      ['ایمیل', 'است'],
      ['Contact:\\n', '\\nbye'],
      ['Contact\\t', '\\r\\n'],
      ['\u001b[31m', '\u001b[0m'],
      ['\\u001b[1;31m', '\\u001b[0m'],
    ]
    for (const [before, after] of sides) {
      expect(kindsIn(`x ${before}farida.ahmadi@example.af${after} y`), before).toContain('e-mail')
      expect(kindsIn(`x ${before}0700123456${after} y`), before).toEqual(['phone'])
      expect(kindsIn(`x ${before.replace('ایمیل', '')}Farida Ahmadi${after.replace('است', '')} y`)).toEqual([
        'name',
      ])
    }
  })

  test('in parts, in any order, with other fields between', () => {
    for (const text of [
      '{"cc":93,"ndc":70,"sn":"0123456"}',
      '{"sn":"0123456","ndc":70,"cc":93}',
      '[0,7,0,0,1,2,3,4,5,6]',
      'PRN^PH^^93^70^0123456',
    ]) {
      expect(kindsIn(text), text).toEqual(['phone'])
    }
    for (const text of [
      '{"first_name":"Farida","sex":"f","born":"1990-01-01","last_name":"Ahmadi"}',
      'lname=Ahmadi&city=Herat&fname=Farida',
      '<lastName>احمدی</lastName><sex>f</sex><firstName>فریده</firstName>',
    ]) {
      expect(kindsIn(text), text).toEqual(['name'])
    }
    expect(kindsIn('{"first_name":"Farida","last_name":"Karimi"}')).toEqual([])
    expect(kindsIn('[0,7,0,0,1,2,3,4,5,7]')).toEqual([])
  })

  test('of an address in a list of bytes, where nobody is looked for by a number', () => {
    const mail = openScanner(KEY, wantedOf('farida', [FARIDA[2]!]))
    expect(mail.scan(JSON.stringify([...Buffer.from('"farida.ahmadi@example.af"')]))).toHaveLength(1)
  })

  test.each([
    ['phone', '<td><b>0700</b> <i class="x">123</i></td><td>456</td>'],
    ['e-mail', 'farida.<wbr>ahmadi@<!-- not a robot -->example.af'],
    ['phone', '{"dial":["0700","123","456"]}'],
    ['phone', 'reach her on 0700 12\n3456 at night'],
    ['phone', '> call +93 700\r\n> 123456'],
    ['phone', JSON.stringify({ note: 'on 0700-\n123456, or not' })],
    ['e-mail', 'write to farida.ahmadi@exam\n  ple.af today'],
    ['e-mail', 'write to farida.\nahmadi@example.af today'],
    ['e-mail', 'farida dot ahmadi at example dot af'],
    ['e-mail', 'Farida.Ahmadi AT example.af'],
    ['e-mail', 'report_for_farida.ahmadi_at_example.af.pdf'],
    ['e-mail', [...'farida.ahmadi@example.af'].reverse().join('')],
    ['e-mail', 'snevqn.nuznqv@rknzcyr.ns'],
    ['e-mail', 'f\u0430rida.ahm\u0430di@ex\u0430mple.af, with Cyrillic letters'],
    ['e-mail', 'farida.ahmadi-at-example-dot-af'],
    ['e-mail', 'farida.ahmadi{at}example{dot}af'],
    ['e-mail', 'farida.ahmadi [@] example.af'],
    ['e-mail', 'farida.ahmadi(at work)@example.af'],
    ['e-mail', 'farida.ahmadi@example\u3002af'],
    ['e-mail', 'Subject: =?UTF-8?Q?farida.ahm?=\r\n =?UTF-8?Q?adi=40example.af?='],
    ['phone', '=?UTF-8?B?dGVsIDA3MDA=?= =?UTF-8?B?MTIzNDU2IG5vdw==?='],
    ['phone', `insert into t values ('0700' '123456')`],
    ['phone', '0700\u001f123\u007f456'],
    ['phone', `0\u247a00\u2474\u2475\u2476\u2477\u2478\u2479`],
    ['phone', [...'0700123456'].map((digit) => String.fromCodePoint(0x1fbf0 + Number(digit))).join('')],
    ['phone', [...'0700123456'].map((digit) => `\\'${hexOf(digit)}`).join('')],
    ['phone', [...'0700123456'].map((digit) => `\\u${1776 + Number(digit)}?`).join('')],
    ['phone', [...'0700123456'].map((digit) => `\\6${digit}`).join('')],
    ['phone', '{"0":"0","1":"7","2":"0","3":"0","4":"1","5":"2","6":"3","7":"4","8":"5","9":"6"}'],
    [
      'phone',
      octets('0700123456', 2, 8)
        .map((byte) => `0b${byte}`)
        .join(', '),
    ],
    [
      'phone',
      octets('0700123456', 8, 2)
        .map((byte) => `0o${byte}`)
        .join(','),
    ],
    ['phone', JSON.stringify([...gzipSync('{"to":"0700123456"}')])],
    ['phone', gzipSync(gzipSync('{"to":"0700123456"}')).toString('base64')],
    ['phone', zipped('word/document.xml', '<w:t>0700</w:t></w:r><w:r><w:t>123456</w:t>')],
    ['phone', zipped('a.txt', 'nothing', 'b.txt', 'on 0700123456 at night').toString('base64')],
    ['phone', deflateSync('BT [(07)-20.5(00)15(123)(456)] TJ ET')],
    ['e-mail', `quoted: \\'farida\\u002eahmadi@example.af\\'`],
    ['phone', '07913907000000F011000B913907103254F60000AA05E8329BFD06'],
    ['phone', `\u202e${[...'0700 123 456'].reverse().join('')}\u202c`],
    [
      'phone',
      Buffer.from('0700123456')
        .toString('hex')
        .replace(/..(?=.)/g, '$&.'),
    ],
    [
      'phone',
      Buffer.from('0700123456')
        .toString('hex')
        .replace(/..(?=.)/g, '$&/'),
    ],
    [
      'phone',
      Buffer.from('0700123456')
        .toString('hex')
        .replace(/..(?=.)/g, '$&\n'),
    ],
    ['phone', 'memory: 30373030 31323334 3536'],
    ['phone', '0x30373030 0x31323334 0x3536'],
    ['name', `{"who":${JSON.stringify([...'Farida Ahmadi'])}}`],
    ['e-mail', `{"sql":${JSON.stringify(`'farida.' || 'ahmadi@' || 'example.af'`)}}`],
    ['phone', `tel = "0700" + '123' + "456"`],
    ['phone', '[{"name":"phone_prefix","value":"0700"},{"name":"phone_rest","value":"123456"}]'],
    ['phone', '<param name="cc" value="93"/><param name="nsn" value="700123456"/>'],
    ['name', '[{"Key":"firstName","Value":"Farida"},{"Key":"lastName","Value":"Ahmadi"}]'],
    ['e-mail', '{"email_user":"Farida.Ahmadi","seen":3,"email_domain":"example.af"}'],
    ['e-mail', 'host=example.af id=7 user=farida.ahmadi'],
    ['e-mail', '<local>farida.ahmadi</local><domain>example.af</domain>'],
    ['e-mail', 'farida.ahmadi [at] example [dot] af'],
    ['e-mail', 'farida.ahmadi @ example.af'],
    ['e-mail', '"farida.ahmadi"@example.af'],
    ['e-mail', 'bounce+farida.ahmadi=example.af@news.example'],
    ['e-mail', 'SRS0=HHH=TT=example.af=farida.ahmadi@forward.example'],
    ['e-mail', 'to: =?UTF-8?Q?farida.ahmadi=40example.af?='],
    ['phone', '9.3700123456e10'],
    ['phone', `0x${(93_700_123_456).toString(16)}`],
    ['national-id', '{"tazkira_volume":"1400","tazkira_page":"0101","tazkira_no":"12345"}'],
    ['e-mail', hexDump('seen farida.ahmadi@example.af today')],
    ['e-mail', uuencoded('to farida.ahmadi@example.af, with love')],
    ['e-mail', `<~${ascii85('to farida.ahmadi@example.af')}~>`],
    ['e-mail', wordsOf('to farida.ahmadi@example.af', 4).join(' ')],
    ['e-mail', octets('farida.ahmadi@example.af', 2, 8).join(' ')],
    ['e-mail', octets('farida.ahmadi@example.af', 8, 3).join(' ')],
    ['e-mail', octets('farida.ahmadi@example.af', 10, 3).join('')],
    ['e-mail', [...'farida.ahmadi@example.af'].map((sign) => `\\00${hexOf(sign).padStart(4, '0')}`).join('')],
    ['e-mail', [...'farida.ahmadi@example.af'].map((sign) => `\\${hexOf(sign).padStart(4, '0')}`).join('')],
    ['e-mail', utf32('farida.ahmadi@example.af')],
    ['e-mail', deflateSync('to farida.ahmadi@example.af')],
    [
      'e-mail',
      Buffer.from('{"to":"farida.ahmadi@example.af"}')
        .toString('base64')
        .match(/.{1,24}/g)!
        .join('\n'),
    ],
    [
      'name',
      'Farida Ahmadi'.replace(/[a-z]/g, (sign) => String.fromCodePoint(0x1d41a - 97 + sign.charCodeAt(0))),
    ],
  ])('as %s in %s', (kind, written) => {
    const around = ['2026-11-24T15:41:03Z seen\n', '\nnext'].map((text) => Buffer.from(text)) as [
      Buffer,
      Buffer,
    ]
    expect(kindsIn(Buffer.concat([around[0], Buffer.from(written as string), around[1]]))).toContain(kind)
    expect(subjectsIn(written)).toEqual([])
  })

  test('of a domain in another script, whichever way it is written', () => {
    const scanner = openScanner(
      KEY,
      wantedOf('f', [{ kind: 'e-mail', value: 'farida@xn--mgba3a4f16a.example' }]),
    )
    for (const text of ['farida@ایران.example', 'to FARIDA@XN--MGBA3A4F16A.example,'])
      expect(
        scanner.scan(text).map(({ subject }) => subject),
        text,
      ).toEqual(['f'])
  })

  test('in base64 that is hex but for some letters', () => {
    const paper = openScanner(KEY, wantedOf('somebody', [{ kind: 'phone', value: '+93760450870' }]))
    expect(paper.scan('ADAANwA2ADAANAA1ADAAOAA3ADA=')).toHaveLength(1)
  })

  test('where MIME breaks lines, and where a binary message holds it', () => {
    const long = Buffer.from(`${'x'.repeat(100)} 0700123456 ${'y'.repeat(60)}`).toString('base64')
    for (const lineEnd of ['\r\n', '\n', '\n      ', '\\n', '\\r\\n']) {
      expect(kindsIn(long.replace(/.{76}/g, `$&${lineEnd}`)), lineEnd).toEqual(['phone'])
    }
    const hex = Buffer.from(`${'x'.repeat(25)} 0700123456 ${'y'.repeat(60)}`).toString('hex')
    expect(kindsIn(hex.replace(/.{60}/g, '$&\n'))).toEqual(['phone'])
    const binary = Buffer.concat([
      Buffer.from([0x0a, 0x8f, 0xff]),
      Buffer.from('0700123456'),
      Buffer.from([0x91, 0xff]),
    ])
    expect(kindsIn(binary.toString('base64'))).toEqual(['phone'])
    expect(kindsIn(binary)).toEqual(['phone'])
    const zipped = gzipSync('{"to":"0700123456"}')
    expect(kindsIn(zipped)).toEqual(['phone'])
    expect(kindsIn(Buffer.concat([binary.subarray(0, 3), zipped]))).toEqual(['phone'])
  })

  test('however a stream is cut', async () => {
    const lines = Array.from({ length: 600 }, (_, n) => `${'-'.repeat(n)} ${identifiersOf(n)[0]!.value}`)
    const long = Buffer.from(lines.join(' '))
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 100_000 }), fc.boolean(), async (size, asOneLine) => {
        const bytes = asOneLine ? long : Buffer.from(lines.join('\n'))
        const hits: Hit[] = []
        for await (const hit of many.stream(pieces(bytes, size))) hits.push(hit)
        expect(new Set(hits.map(({ subject }) => subject)).size).toBe(600)
        if (!asOneLine) expect(hits.length).toBe(600)
      }),
      { numRuns: 8 },
    )
  })

  test('in a line of many pieces, after a short one that base64 could go on from', async () => {
    const long = Buffer.from(`${'x'.repeat(400)}QUJD\n${'a=b;'.repeat(80_000)} 0700123456 `)
    expect(kindsIn(long)).toEqual(['phone'])
    const hits: Hit[] = []
    for await (const hit of farida.stream(pieces(long, 100_000))) hits.push(hit)
    expect(hits).toHaveLength(1)
  })

  test('in an attachment of many pieces, as MIME breaks it', async () => {
    const all = Array.from({ length: 900 }, (_, n) => `${'x'.repeat(n % 400)} ${identifiersOf(n)[0]!.value}`)
    const wrapped = Buffer.from(all.join(' ')).toString('base64').replace(/.{76}/g, '$&\r\n')
    const hits: string[] = []
    for await (const { subject } of many.stream(pieces(Buffer.from(wrapped), 50_000))) hits.push(subject)
    expect(new Set(hits).size).toBe(900)
  })

  test('each of a thousand in one line', () => {
    for (const which of [0, 1, 2, 3]) {
      for (const joint of [',', ', ', '\t', ' ', '";"', '\n', '|x|']) {
        const all = Array.from({ length: PERSONS }, (_, n) => identifiersOf(n)[which]!.value)
        expect(subjectsIn(all.join(joint)).length, `${which}, joined by ${JSON.stringify(joint)}`).toBe(
          PERSONS,
        )
      }
    }
  })

  test('where it stands: byte, kind, and what it was wrapped in', () => {
    const inner = Buffer.from('tel 0700123456').toString('base64')
    expect(farida.scan(`first\n{"a":"${inner}"}`)).toEqual([
      { subject: 'farida', kind: 'phone', offset: 12, encodings: ['base64'] },
    ])
  })
})

test('three marked words of hex are found wherever they stand', () => {
  for (let at = 0; at < 16; at++)
    expect(kindsIn(`${'-'.repeat(at)} 0x30373030 0x31323334 0x3536 ok`)).toEqual(['phone'])
})

describe('nobody is found', () => {
  test('in a log of other people', () => {
    const chance = randomFrom(20261130)
    const others = { from: 1_000_000, count: 1_000_000 }
    const log = Array.from({ length: 10_000 }, (_, n) => logLine(n, chance, others)).join('\n')
    expect(many.scan(log)).toEqual([])
  })

  test('in random text, random bytes and their encodings', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string({ unit: 'binary', maxLength: 400 }),
          fc.uint8Array({ maxLength: 400 }),
          fc.json(),
          fc.bigInt().map(String),
          fc.double().map(String),
        ),
        fc.constantFrom(...ENCODINGS),
        (text, { encode }) => {
          const bytes = typeof text === 'string' ? (encode(text.toWellFormed()) as string) : text
          return many.scan(bytes).length === 0
        },
      ),
      { numRuns: 500 },
    )
  })

  test.each([
    ['a float', '0.700123456'],
    ['a longitude', '"lon":70.0123456'],
    ['a share', '93.700123456 %'],
    ['an amount', '700,123,456 bytes'],
    ['a duration', '"duration_ns":700123456'],
    ['part of a longer number', '17001234561'],
    ['another country', '+98 700 123 456'],
    ['one digit more', '07001234567'],
    ['an id', '8117001-2345-6fc8, a700-1234-56fc-8136, e29b-41d4-0700123456ab'],
    ['a flag and a number', '0,700123456'],
    ['a column of figures', '0700\n123456\n700\n123456\n'],
    ['two times', 'at 07:00\n12:34:56 done'],
    ['another field', '{"status":70,"tookMs":0,"seq":123456}'],
  ])('in %s', (_, text) => {
    expect(farida.scan(text)).toEqual([])
  })

  test('by another tenant', () => {
    const other = fingerprintKey(SECRET, 'kabul')
    const theirs = openScanner(KEY, wantedOf('somebody', FARIDA, other))
    expect(theirs.scan('0700123456, farida.ahmadi@example.af, Farida Ahmadi')).toEqual([])
    expect(openScanner(other, wantedOf('somebody', FARIDA, other)).scan('0700123456')).toHaveLength(1)
  })
})

describe('fingerprints', () => {
  test('of the same value in any writing are the same, and differ by tenant and secret', () => {
    const hex = (value: string, key = KEY) =>
      fingerprintsOf(key, [{ kind: 'phone', value }]).fingerprints.map(({ fingerprint }) =>
        fingerprint.toString('hex'),
      )
    expect(hex('0700 123 456')).toEqual(hex('+93700123456'))
    expect(hex('۰۰۹۳ (۰)۷۰۰-۱۲۳-۴۵۶')).toEqual(hex('+93700123456'))
    expect(hex('0700123456', fingerprintKey(SECRET, 'kabul'))).not.toEqual(hex('0700123456'))
    expect(hex('0700123456', fingerprintKey(Buffer.alloc(32, 8), 'herat'))).not.toEqual(hex('0700123456'))
  })

  test('are told of where there can be none, without the value', () => {
    expect(
      fingerprintsOf(KEY, [
        { kind: 'phone', value: '119' },
        { kind: 'name', value: 'Farida' },
        { kind: 'national-id', value: '12' },
        { kind: 'e-mail', value: 'none' },
      ]),
    ).toEqual({
      fingerprints: [],
      unsearchable: [
        { kind: 'phone', why: expect.any(String) },
        { kind: 'name', why: expect.any(String) },
        { kind: 'national-id', why: expect.any(String) },
        { kind: 'e-mail', why: expect.any(String) },
      ],
    })
  })

  test('are filtered by SipHash-2-4, to the vectors of its authors', () => {
    const sip = new SipHash(Uint8Array.from({ length: 16 }, (_, at) => at))
    const of = (length: number) => {
      sip.bytes(Uint8Array.from({ length }, (_, at) => at))
      const result = Buffer.alloc(8)
      result.writeInt32LE(sip.low, 0)
      result.writeInt32LE(sip.high, 4)
      return result.toString('hex')
    }
    expect([0, 1, 7, 8, 15].map(of)).toEqual([
      '310e0edd47db6f72',
      'fd67dc93c539f874',
      '37d1018bf50002ab',
      '6224939a79f5f593',
      'e545be4961ca29a1',
    ])
  })
})

test('encodings without end are cut short, and told', () => {
  const nested = (text: string, times: number): string =>
    times === 0 ? text : nested(Buffer.from(text).toString('base64'), times - 1)
  const scanner = openScanner(KEY, wantedOf('farida', FARIDA))
  expect(scanner.scan(nested('tel 0700123456', 5))).toHaveLength(1)
  expect(scanner.cutShort).toBe(0)
  scanner.scan(nested('tel 0700123456', 9))
  expect(scanner.cutShort).toBeGreaterThan(0)
  scanner.scan(gzipSync(Buffer.alloc(50_000_000)))
})

async function* pieces(bytes: Buffer, size: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size)
}

const hexOf = (text: string): string => Buffer.from(text).toString('hex')
const wordsOf = (text: string, bytes: number): string[] =>
  hexOf(text).match(new RegExp(`.{1,${2 * bytes}}`, 'g'))!
const octets = (text: string, base: number, size: number): string[] =>
  [...Buffer.from(text)].map((byte) => byte.toString(base).padStart(size, '0'))
const utf32 = (text: string): Buffer =>
  Buffer.concat([...text].map((sign) => Buffer.from([0, 0, 0, sign.charCodeAt(0)])))

/** Files of a ZIP (APPNOTE 4.3), without the directory at its end. */
function zipped(...files: string[]): Buffer {
  const heads = files.flatMap((name, n) => {
    if (n % 2 === 1) return []
    const data = deflateRawSync(files[n + 1]!)
    const head = Buffer.alloc(30)
    head.write('PK\x03\x04\x14', 'latin1')
    head[8] = 8
    head.writeUInt32LE(data.length, 18)
    head.writeUInt16LE(name.length, 26)
    return [head, Buffer.from(name), data]
  })
  return Buffer.concat(heads)
}

function hexDump(text: string): string {
  const lines = text.match(/.{1,16}/g)!
  return lines
    .map((line, n) => `${(16 * n).toString(16).padStart(8, '0')}  ${wordsOf(line, 1).join(' ')}  |${line}|`)
    .join('\n')
}

function uuencoded(text: string): string {
  const sign = (six: number) => String.fromCharCode(six === 0 ? 0x60 : 0x20 + six)
  const threes = wordsOf(text, 3).map((word) => Number.parseInt(word.padEnd(6, '0'), 16))
  const digits = threes.map((bits) => [18, 12, 6, 0].map((shift) => sign((bits >> shift) & 63)).join(''))
  return `begin 644 note\n${sign(Buffer.byteLength(text))}${digits.join('')}\n\`\nend`
}

function ascii85(text: string): string {
  return wordsOf(text, 4)
    .map((word) => {
      let rest = Number.parseInt(word.padEnd(8, '0'), 16)
      const signs = Array.from({ length: 5 }, () => {
        const value = rest % 85
        rest = Math.floor(rest / 85)
        return String.fromCharCode(33 + value)
      })
      return signs
        .reverse()
        .join('')
        .slice(0, word.length / 2 + 1)
    })
    .join('')
}
