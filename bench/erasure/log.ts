import type { Identifier } from '../../src/domain/erasure/identifier.ts'
import type { Chance } from '../../src/sandbox/random.ts'

/** What names one person, in the order phone, e-mail, national id, record number. Numbers below a million are told apart. */
export function identifiersOf(person: number): Identifier[] {
  // Odd multipliers: numbers spread, and no two persons have one.
  const spread = (factor: number, modulus: number) => ((person + 1) * factor) % modulus
  const phone = String(spread(7_654_321, 100_000_007) % 100_000_000).padStart(8, '0')
  const national = String(spread(9_876_543, 1_000_000_007) % 1_000_000_000).padStart(9, '0')
  return [
    { kind: 'phone', value: `+937${phone}` },
    {
      kind: 'e-mail',
      value: `${GIVEN[person % GIVEN.length]}.${FAMILY[person % FAMILY.length]}${person}@example.af`,
    },
    { kind: 'national-id', value: `1400-${national.slice(0, 4)}-${national.slice(4)}` },
    { kind: 'record-number', value: `KBL-${2015 + (person % 11)}-${String(person).padStart(6, '0')}` },
  ]
}

/**
 * One line of a platform's logs: access log, dispatch log, services' JSON, webhooks with encoded bodies, traces, figures of
 * many digits, coordinates, Persian text; with identifiers of persons from `firstPerson` on.
 */
export function logLine(n: number, chance: Chance, persons: { from: number; count: number }): string {
  const at = new Date(1_764_000_000_000 + n * 61)
  const person = () => identifiersOf(persons.from + chance.below(persons.count))
  const [phone, email, national, record] = person().map(({ value }) => value) as [
    string,
    string,
    string,
    string,
  ]
  const base = `"ts":"${at.toISOString()}","level":"info","tenant":"${chance.uuid()}"`
  switch (chance.below(12)) {
    case 0:
      return `10.${chance.below(256)}.${chance.below(256)}.${chance.below(256)} - - [${at.toUTCString()}] "GET /v1/patients/${chance.uuid()}/visits?from=2025-11-${10 + chance.below(20)}&q=${encodeURIComponent('نام بیمار')}&page=${chance.below(90)} HTTP/1.1" 200 ${chance.below(100_000)} "-" "Mozilla/5.0 (Linux; Android 13; SM-A546E) AppleWebKit/537.36 Chrome/120.0.6099.144" rt=0.${chance.below(1_000_000_000)}`
    case 1:
      return `{${base},"service":"communication","msg":"dispatched","provider":"ghasi","recipient":"${phone}","template":"appointment-reminder","messageId":"${chance.uuid()}","latencyMs":${chance.below(3000)},"cost":${chance.below(1000) / 1000}}`
    case 2:
      return `{${base},"service":"billing","msg":"charge captured","chargeId":"${chance.uuid()}","amount_minor":${chance.below(1_000_000_000)},"currency":"AFN","duration_ns":${chance.below(1_000_000_000)},"epoch_us":${at.getTime() * 1000 + chance.below(1000)}}`
    case 3:
      return `${at.toISOString().replace('T', ' ').slice(0, 23)} WARN  [http-nio-8080-exec-${chance.below(64)}] c.g.vcare.SessionController - session ${chance.uuid()} slow: ${chance.below(10_000)} ms, heap ${chance.below(1_000_000_000)} bytes, thread 0x${chance.below(0x7fffffff).toString(16)}`
    case 4:
      return `{${base},"service":"virtual-care","msg":"joined","sessionId":"${chance.uuid()}","ip":"192.168.${chance.below(256)}.${chance.below(256)}","lat":${34 + chance.below(10_000_000) / 10_000_000},"lon":${70 + chance.below(10_000_000) / 10_000_000},"rtt":${chance.below(1_000_000_000) / 1_000_000_000},"traceparent":"00-${chance.uuid().replaceAll('-', '')}-${chance.uuid().slice(0, 18).replaceAll('-', '')}-01"}`
    case 5:
      return `{${base},"msg":"webhook","body":"${Buffer.from(`{"event":"delivered","id":"${chance.uuid()}","to":"${phone}"}`).toString('base64')}","signature":"sha256=${chance.uuid().replaceAll('-', '')}${chance.uuid().replaceAll('-', '')}"}`
    case 6:
      return `{${base},"msg":"پیام به بیمار فرستاده شد","متن":"وقت ملاقات شما روز ${chance.below(30)} ساعت ${8 + chance.below(8)} است، لطفاً ۱۵ دقیقه پیشتر بیایید","subject":"${chance.uuid()}"}`
    case 7:
      return `{${base},"msg":"mail queued","to":"${email}","queueId":"${chance.uuid().slice(0, 8).toUpperCase()}","size":${chance.below(90_000)},"spf":"pass"}`
    case 8:
      return `{${base},"msg":"identity checked","payload":${JSON.stringify(JSON.stringify({ nid: national, record, ok: true, at: at.getTime() }))}}`
    case 9:
      return `    at Object.relayBatch (/srv/tabib/dist/domain/outbox/relay.js:${chance.below(500)}:${chance.below(90)}) node:internal/process/task_queues:95:5 pid=${chance.below(65_536)} seq=${n} off=${chance.below(1_000_000_000)}`
    case 10:
      return `{${base},"msg":"jwt accepted","token":"eyJhbGciOiJFUzI1NiIsImtpZCI6Ijk4In0.${Buffer.from(`{"sub":"${chance.uuid()}","iat":${Math.floor(at.getTime() / 1000)},"exp":${Math.floor(at.getTime() / 1000) + 900}}`).toString('base64url')}.${Buffer.from(chance.uuid() + chance.uuid()).toString('base64url')}"}`
    default:
      return `${at.getTime()},${chance.uuid()},${chance.below(10)},${chance.below(1_000_000_000)},${phone},${chance.below(1000)},${record},delivered,${at.getTime() + chance.below(9000)}`
  }
}

const GIVEN = [
  'fereshta',
  'zahra',
  'maryam',
  'nargis',
  'ahmad',
  'jawad',
  'naweed',
  'palwasha',
  'zalmay',
  'aimal',
  'mirwais',
]
const FAMILY = ['ahmadi', 'rezaee', 'haidari', 'karimi', 'noori', 'sediqi', 'popalzai', 'stanekzai', 'wardak']
