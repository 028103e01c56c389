import type { Database, Transaction } from '../adapters/postgres/client.ts'
import { writeTenant } from '../domain/tenants/apply.ts'
import { type Service, schemaOf } from '../service.ts'
import { type Chance, randomFrom } from './random.ts'
import { completeTenant } from './tenants.ts'

/** How many rows of each kind a seeding made; `events` is the number of outbox rows. */
export interface PlatformCounts {
  tenants: number
  patients: number
  appointments: number
  sessions: number
  charges: number
  messages: number
  events: number
}

export interface PlatformOptions {
  /** The same seed, scale and day make the same rows; only the ids of events and of the ledger differ. */
  seed: number
  /** 1 makes about 110,000 events. */
  scale: number
  /** The present of the clinic group; appointments lie in the 60 days before it and the 7 after. Default: today. */
  today?: Date
  /** Called after each committed batch. */
  onProgress?: (events: number) => void
}

/**
 * Fills an empty database with a clinic group in Kabul, Herat and Kandahar: patients with Dari and Pashto names, visits
 * at clinic hours, fees, messages. Every row is written as its service would write it: by the service's role, for one
 * tenant, in one transaction with its event. Events carry ids and codes, never names or phone numbers.
 *
 * Fees are posted to the ledger. Consultations are not charged here: that is what billing does when it hears of
 * `session.ended`.
 *
 * @param systems `db` may write tenants (tabib's role), `service` is a producer (tabib_app).
 */
export async function seedPlatform(
  systems: { db: Database; service: Database },
  { seed, scale, today = startOfToday(), onProgress }: PlatformOptions,
): Promise<PlatformCounts> {
  const chance = randomFrom(seed)
  const clinics = CLINICS.map((clinic) => ({ ...clinic, id: chance.uuid() }))
  await systems.db.query(
    `insert into tabib.tenant (id, slug, name, region, currency, status)
     select id, slug, name, region, currency, 'live'
     from json_to_recordset($1) as t(id uuid, slug text, name text, region text, currency text)`,
    [JSON.stringify(clinics.map((clinic) => ({ ...clinic, region: CITIES[clinic.city].region })))],
  )
  const counts: PlatformCounts = {
    tenants: clinics.length,
    patients: 0,
    appointments: 0,
    sessions: 0,
    charges: 0,
    messages: 0,
    events: 0,
  }
  for (const clinic of clinics) {
    const { region } = CITIES[clinic.city]
    const tenant = completeTenant({ ...clinic, region })
    await systems.db.transaction((tx) => writeTenant(tx, clinic.id, tenant))
    for (const batch of clinicBatches(clinic, chance, scale, today)) {
      await commit(systems.service, clinic.id, batch)
      counts.patients += batch.patients.length
      counts.appointments += batch.appointments.length
      counts.sessions += batch.sessions.length
      counts.charges += batch.charges.length
      counts.messages += batch.messages.length
      // The ledger appends one of its own for each fee.
      counts.events += batch.events.length + batch.charges.length
      onProgress?.(counts.events)
    }
  }
  return counts
}

const PATIENTS_AT_SCALE_1 = 10_000
const VISITS_AT_SCALE_1 = 18_500
const ROWS_PER_TRANSACTION = 1_000

const CITIES = {
  kabul: { region: 'af-kabul', dariShare: 0.65 },
  herat: { region: 'af-herat', dariShare: 0.92 },
  kandahar: { region: 'af-kandahar', dariShare: 0.08 },
} as const

interface Clinic {
  slug: string
  name: string
  city: keyof typeof CITIES
  currency: string
  /** Part of the group's patients and visits; all parts make 1. */
  share: number
}

const CLINICS: Clinic[] = [
  { slug: 'kabul-shahr-e-naw', name: 'درمانگاه شهر نو', city: 'kabul', currency: 'AFN', share: 0.24 },
  { slug: 'kabul-karte-seh', name: 'درمانگاه کارته سه', city: 'kabul', currency: 'AFN', share: 0.16 },
  { slug: 'kabul-dasht-e-barchi', name: 'درمانگاه دشت برچی', city: 'kabul', currency: 'AFN', share: 0.12 },
  {
    slug: 'kabul-wazir-akbar-khan',
    name: 'کلینیک وزیر اکبر خان',
    city: 'kabul',
    currency: 'USD',
    share: 0.06,
  },
  { slug: 'herat-markaz', name: 'درمانگاه مرکزی هرات', city: 'herat', currency: 'AFN', share: 0.14 },
  { slug: 'herat-jebrail', name: 'درمانگاه جبرئیل', city: 'herat', currency: 'AFN', share: 0.08 },
  { slug: 'herat-guzara', name: 'درمانگاه گذره', city: 'herat', currency: 'AFN', share: 0.03 },
  { slug: 'kandahar-shahr', name: 'د کندهار ښار کلینیک', city: 'kandahar', currency: 'AFN', share: 0.11 },
  { slug: 'kandahar-aino-mena', name: 'د عینو مېنې کلینیک', city: 'kandahar', currency: 'AFN', share: 0.05 },
  { slug: 'kandahar-arghandab', name: 'د ارغنداب کلینیک', city: 'kandahar', currency: 'AFN', share: 0.01 },
]

const NAMES = {
  'fa-AF': {
    given: [
      'فرشته',
      'زهرا',
      'مریم',
      'شکریه',
      'نرگس',
      'لیلا',
      'فاطمه',
      'احمد',
      'حسین',
      'جواد',
      'فرید',
      'نوید',
      'رامین',
      'حمید',
    ],
    family: [
      'احمدی',
      'رضایی',
      'حیدری',
      'محمدی',
      'کریمی',
      'نوری',
      'صدیقی',
      'هروی',
      'جعفری',
      'یوسفی',
      'رحیمی',
      'سروری',
    ],
  },
  'ps-AF': {
    given: [
      'ګلالۍ',
      'پلوشه',
      'سپوږمۍ',
      'زرغونه',
      'وږمه',
      'توریالی',
      'زلمی',
      'ایمل',
      'شېرشاه',
      'بریالی',
      'میرویس',
      'څپاند',
    ],
    family: [
      'اڅکزی',
      'پوپلزی',
      'بارکزی',
      'نورزی',
      'الکوزی',
      'یوسفزی',
      'ستانکزی',
      'وردګ',
      'ځاځی',
      'ساپی',
      'کاکړ',
      'مومند',
    ],
  },
} as const

const FEES = [
  { code: 'REG', afn: 100 },
  { code: 'LAB-CBC', afn: 350 },
  { code: 'LAB-HBA1C', afn: 600 },
  { code: 'RX', afn: 220 },
  { code: 'ECG', afn: 450 },
] as const

interface Event {
  service: Service
  aggregate_type: string
  aggregate_id: string
  type: string
  subject_id: string
  data: Record<string, unknown>
}

/** What one transaction writes. Keys are column names. */
interface Batch {
  patients: { id: string; name: string; language: string; phone: string }[]
  appointments: { id: string; patient_id: string; starts_at: Date; status: string }[]
  sessions: {
    id: string
    appointment_id: string
    patient_id: string
    status: string
    version: number
    started_at: Date
    ended_at: Date
  }[]
  charges: {
    id: string
    patient_id: string
    amount_minor: number
    currency: string
    code: string
    captured_at: Date
  }[]
  messages: {
    id: string
    patient_id: string
    channel: string
    template: string
    status: string
    sent_at: Date
  }[]
  events: Event[]
}

function* clinicBatches(clinic: Clinic, chance: Chance, scale: number, today: Date): Generator<Batch> {
  const patientIds: string[] = []
  // A clinic with visits has somebody to visit it, however small the scale.
  const patientCount = Math.max(1, Math.round(PATIENTS_AT_SCALE_1 * scale * clinic.share))
  for (let from = 0; from < patientCount; from += ROWS_PER_TRANSACTION) {
    const batch = emptyBatch()
    for (let n = from; n < Math.min(from + ROWS_PER_TRANSACTION, patientCount); n += 1) {
      patientIds.push(addPatient(batch, clinic, chance))
    }
    yield batch
  }
  const visitCount = Math.round(VISITS_AT_SCALE_1 * scale * clinic.share)
  for (let from = 0; from < visitCount; from += ROWS_PER_TRANSACTION) {
    const batch = emptyBatch()
    for (let n = from; n < Math.min(from + ROWS_PER_TRANSACTION, visitCount); n += 1) {
      addVisit(batch, { clinic, chance, today, patientId: chance.pick(patientIds) })
    }
    yield batch
  }
}

function addPatient(batch: Batch, clinic: Clinic, chance: Chance): string {
  const id = chance.uuid()
  const language = chance.happens(CITIES[clinic.city].dariShare) ? 'fa-AF' : 'ps-AF'
  const { given, family } = NAMES[language]
  const name = `${chance.pick(given)} ${chance.pick(family)}`
  const phone = `+937${chance.below(10)}${String(chance.below(10_000_000)).padStart(7, '0')}`
  batch.patients.push({ id, name, language, phone })
  batch.events.push({
    service: 'virtual-care',
    aggregate_type: 'patient',
    aggregate_id: id,
    type: 'registered',
    subject_id: id,
    data: { patientId: id, language },
  })
  return id
}

interface Visit {
  clinic: Clinic
  chance: Chance
  today: Date
  patientId: string
}

/** One appointment with all that follows from it. */
function addVisit(batch: Batch, visit: Visit): void {
  const { chance, today, patientId } = visit
  const appointmentId = chance.uuid()
  const isFuture = chance.happens(0.08)
  const startsAt = clinicHour(chance, today, isFuture)
  const status = isFuture
    ? 'scheduled'
    : chance.weighted({ completed: 0.81, 'no-show': 0.11, cancelled: 0.08 })
  batch.appointments.push({ id: appointmentId, patient_id: patientId, starts_at: startsAt, status })
  const appointment = (type: string) =>
    batch.events.push({
      service: 'virtual-care',
      aggregate_type: 'appointment',
      aggregate_id: appointmentId,
      type,
      subject_id: patientId,
      data: { appointmentId, patientId, startsAt },
    })
  appointment('scheduled')
  addMessage(batch, visit, 'appointment-reminder', minutesAfter(startsAt, -24 * 60))
  if (status === 'no-show' || status === 'cancelled') appointment(status)
  if (status !== 'completed') return
  addSession(batch, visit, appointmentId, startsAt)
  if (chance.happens(0.6)) addCharge(batch, visit, minutesAfter(startsAt, 40))
  addMessage(batch, visit, 'visit-summary', minutesAfter(startsAt, 60))
}

function addSession(batch: Batch, { chance, patientId }: Visit, appointmentId: string, startsAt: Date): void {
  const id = chance.uuid()
  const startedAt = minutesAfter(startsAt, chance.below(12))
  const endedAt = minutesAfter(startedAt, 5 + chance.below(26))
  batch.sessions.push({
    id,
    appointment_id: appointmentId,
    patient_id: patientId,
    status: 'ended',
    version: 3,
    started_at: startedAt,
    ended_at: endedAt,
  })
  const data = { sessionId: id, appointmentId, patientId }
  const session = {
    service: 'virtual-care',
    aggregate_type: 'session',
    aggregate_id: id,
    subject_id: patientId,
  } as const
  batch.events.push({ ...session, type: 'started', data: { ...data, startedAt } })
  batch.events.push({ ...session, type: 'ended', data: { ...data, startedAt, endedAt } })
}

function addCharge(batch: Batch, { clinic, chance, patientId }: Visit, capturedAt: Date): void {
  const id = chance.uuid()
  const { code, afn } = chance.pick(FEES)
  // Both currencies have two decimals; 70 AFN to the dollar.
  const amountMinor = clinic.currency === 'USD' ? Math.round((afn * 100) / 70) : afn * 100
  batch.charges.push({
    id,
    patient_id: patientId,
    amount_minor: amountMinor,
    currency: clinic.currency,
    code,
    captured_at: capturedAt,
  })
  batch.events.push({
    service: 'billing',
    aggregate_type: 'charge',
    aggregate_id: id,
    type: 'captured',
    subject_id: patientId,
    data: { chargeId: id, patientId, amountMinor: String(amountMinor), currency: clinic.currency },
  })
}

function addMessage(batch: Batch, { chance, patientId }: Visit, template: string, sentAt: Date): void {
  const id = chance.uuid()
  const channel = chance.weighted({ sms: 0.7, push: 0.25, email: 0.05 })
  const status = chance.weighted({ delivered: 0.94, sent: 0.04, failed: 0.02 })
  batch.messages.push({ id, patient_id: patientId, channel, template, status, sent_at: sentAt })
  batch.events.push({
    service: 'communication',
    aggregate_type: 'message',
    aggregate_id: id,
    type: status,
    subject_id: patientId,
    data: { messageId: id, patientId, channel, template },
  })
}

/** Clinics work from 8 to 16 in Kabul (UTC+4:30), never on Friday. */
function clinicHour(chance: Chance, today: Date, isFuture: boolean): Date {
  const days = isFuture ? 1 + chance.below(7) : -1 - chance.below(60)
  const at = minutesAfter(today, days * 24 * 60 + 3 * 60 + 30 + chance.below(32) * 15)
  return at.getUTCDay() === 5 ? minutesAfter(at, isFuture ? 24 * 60 : -24 * 60) : at
}

async function commit(service: Database, tenantId: string, batch: Batch): Promise<void> {
  await service.transaction(async (tx) => {
    await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
    for (const { rows, insert } of inserts(batch)) {
      if (rows.length > 0) await tx.query(insert, [tenantId, JSON.stringify(rows)])
    }
    for (const name of ['virtual-care', 'billing', 'communication'] as const) {
      await insertEvents(
        tx,
        tenantId,
        name,
        batch.events.filter((event) => event.service === name),
      )
    }
  })
}

const inserts = (batch: Batch) => [
  {
    rows: batch.patients,
    insert: `insert into virtual_care.patient (tenant_id, id, name, language, phone)
      select $1, * from json_to_recordset($2) as t(id uuid, name text, language text, phone text)`,
  },
  {
    rows: batch.appointments,
    insert: `insert into virtual_care.appointment (tenant_id, id, patient_id, starts_at, status)
      select $1, * from json_to_recordset($2) as t(id uuid, patient_id uuid, starts_at timestamptz, status text)`,
  },
  {
    rows: batch.sessions,
    insert: `insert into virtual_care.session
        (tenant_id, id, appointment_id, patient_id, status, version, started_at, ended_at)
      select $1, * from json_to_recordset($2) as t(id uuid, appointment_id uuid, patient_id uuid, status text,
        version int, started_at timestamptz, ended_at timestamptz)`,
  },
  {
    rows: batch.charges,
    insert: `insert into billing.account (tenant_id, code, currency)
      select distinct $1::uuid, 'receivable:' || patient_id, currency
      from json_to_recordset($2) as t(patient_id uuid, currency text)
      on conflict (tenant_id, code) do nothing`,
  },
  {
    rows: batch.charges,
    insert: `insert into billing.charge
        (tenant_id, id, patient_id, amount_minor, currency, code, captured_at, account_id, transaction_id)
      select $1, t.*, owed.id, posted.transaction_id
      from json_to_recordset($2) as t(id uuid, patient_id uuid, amount_minor bigint, currency text, code text,
          captured_at timestamptz)
        join billing.account owed on owed.tenant_id = $1 and owed.code = 'receivable:' || t.patient_id
        join billing.account revenue on revenue.tenant_id = $1 and revenue.code = 'revenue',
        lateral billing.post($1, 'charge', 'charge:' || t.id, array[owed.id, revenue.id],
          array[t.amount_minor, -t.amount_minor], array[t.currency, t.currency]) as posted`,
  },
  {
    rows: batch.messages,
    insert: `insert into communication.message (tenant_id, id, patient_id, channel, template, status, sent_at)
      select $1, * from json_to_recordset($2) as t(id uuid, patient_id uuid, channel text, template text,
        status text, sent_at timestamptz)`,
  },
]

async function insertEvents(
  tx: Transaction,
  tenantId: string,
  service: Service,
  events: Event[],
): Promise<void> {
  if (events.length === 0) return
  await tx.query(
    `insert into ${schemaOf(service)}.outbox (tenant_id, aggregate_type, aggregate_id, type, subject_id, data)
     select $1, e.aggregate_type, e.aggregate_id, e.type, e.subject_id, e.data
     from rows from (json_to_recordset($2)
       as (aggregate_type text, aggregate_id text, type text, subject_id uuid, data jsonb))
       with ordinality as e(aggregate_type, aggregate_id, type, subject_id, data, n)
     order by n`,
    [tenantId, JSON.stringify(events)],
  )
}

const emptyBatch = (): Batch => ({
  patients: [],
  appointments: [],
  sessions: [],
  charges: [],
  messages: [],
  events: [],
})

const minutesAfter = (at: Date, minutes: number): Date => new Date(at.getTime() + minutes * 60_000)

function startOfToday(): Date {
  const now = new Date()
  return new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth(), now.getUTCDate()))
}
