import type { Objects } from '../adapters/objects/client.ts'
import type { Database, Transaction } from '../adapters/postgres/client.ts'
import type { Redis } from '../adapters/redis/client.ts'
import { cacheKeys } from '../domain/erasure/participants/cache.ts'
import { askRedis } from '../domain/erasure/redis.ts'
import type { ErasureSecret } from '../domain/erasure/secret.ts'
import { sealForSubject } from '../domain/erasure/subject-key.ts'
import { randomFrom } from './random.ts'

/** A patient with something in every store of the platform. */
export interface PlantedPatient {
  tenantId: string
  patientId: string
  name: string
  phone: string
  email: string
  nationalId: string
  sessionId: string
  threadId: string
}

export interface PlantingSystems {
  readonly service: Database
  readonly redis: Redis
  readonly objects: Objects | undefined
  erasureSecret(): Promise<ErasureSecret>
}

const NAMES = ['Zarghuna Ahmadzai', 'فرشته کریمی', 'Mohammad Daud', 'نوریه ابراهیمی', 'Gulalai Momand']
const AT_ONCE = 250

/**
 * Makes patients of a tenant as the services would, with what people and systems write about them: notes, conversations
 * with attachments, a dispatch log, a payer, statements, a sealed event, cached values. The same seed makes the same.
 * @param phone of the n-th patient, when it should be a certain one.
 */
export async function plantPatients(
  systems: PlantingSystems,
  {
    tenantId,
    count,
    seed = 1,
    phone = (n) => `+9370${String(1_000_000 + seed * 100_000 + n).slice(-7)}`,
  }: { tenantId: string; count: number; seed?: number; phone?: (n: number) => string },
): Promise<PlantedPatient[]> {
  const chance = randomFrom(seed)
  const patients = Array.from({ length: count }, (_, n): PlantedPatient => {
    const name = NAMES[n % NAMES.length]!
    return {
      tenantId,
      patientId: chance.uuid(),
      name,
      phone: phone(n),
      email: `patient.${seed}.${n}@mail.example`,
      nationalId: `14${String(seed).padStart(3, '0')}-${String(n).padStart(5, '0')}`,
      sessionId: chance.uuid(),
      threadId: chance.uuid(),
    }
  })
  for (let from = 0; from < count; from += AT_ONCE) {
    await plant(systems, tenantId, patients.slice(from, from + AT_ONCE))
  }
  return patients
}

async function plant(systems: PlantingSystems, tenantId: string, patients: PlantedPatient[]): Promise<void> {
  const secret = await systems.erasureSecret()
  await systems.service.transaction(async (tx) => {
    await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
    for (const insert of INSERTS) await tx.query(insert, [tenantId, JSON.stringify(patients)])
    for (const patient of patients) await announce(tx, secret, patient)
  })
  for (const patient of patients) {
    await systems.objects?.put('attachments', objectKey(patient, 'referral.pdf'), Buffer.from(patient.name))
    await systems.objects?.put('statements', objectKey(patient, '2026-10.pdf'), Buffer.from(patient.name))
    await cachePatient(systems, patient)
  }
}

/** Puts into the cache what a service keeps there of a patient. */
export async function cachePatient(
  { redis }: Pick<PlantingSystems, 'redis'>,
  { tenantId, patientId, name, phone, email }: PlantedPatient,
): Promise<void> {
  const identifiers = {
    subjectId: patientId,
    names: [name],
    phones: [phone],
    emails: [email],
    nationalIds: [],
  }
  const [ofPatient, ...lookups] = cacheKeys({ tenantId, identifiers })
  await askRedis(redis, async (ready) => {
    await ready.hset(ofPatient!, { name, phone })
    for (const key of lookups) await ready.set(key, patientId)
  })
}

/** An event that tells how to reach the patient, sealed under their key. */
async function announce(tx: Transaction, secret: ErasureSecret, patient: PlantedPatient): Promise<void> {
  const { tenantId, patientId, name, phone, email } = patient
  const contact = await sealForSubject(
    tx,
    { secret },
    { tenantId, subjectId: patientId },
    { name, phone, email },
  )
  await tx.query(
    `insert into virtual_care.outbox (tenant_id, aggregate_type, aggregate_id, type, subject_id, data)
     values ($1, 'patient', $2::text, 'registered', $2::uuid, $3)`,
    [tenantId, patientId, JSON.stringify({ patientId, contact })],
  )
}

const objectKey = ({ tenantId, patientId }: PlantedPatient, name: string): string =>
  `${tenantId}/${patientId}/${name}`

const FROM = `from json_to_recordset($2) as p("patientId" uuid, name text, phone text, email text, "nationalId" text,
  "sessionId" uuid, "threadId" uuid)`
const INSERTS = [
  `insert into virtual_care.patient (tenant_id, id, name, language, phone, email, national_id, address, born_on)
   select $1::uuid, p."patientId", name, 'fa-AF', phone, email, "nationalId", 'Karte Seh, Kabul', '1987-03-21' ${FROM}`,
  `insert into virtual_care.session (tenant_id, id, patient_id, status, started_at, ended_at)
   select $1::uuid, "sessionId", "patientId", 'ended', now() - interval '2 days', now() - interval '2 days' ${FROM}`,
  `insert into virtual_care.appointment (tenant_id, id, patient_id, starts_at, status)
   select $1::uuid, "sessionId", "patientId", now() - interval '2 days', 'completed' ${FROM}`,
  `insert into virtual_care.participant (tenant_id, session_id, person_id, role)
   select $1::uuid, "sessionId", "patientId", 'patient' ${FROM}`,
  `insert into virtual_care.encounter_note (tenant_id, patient_id, session_id, body, data)
   select $1::uuid, "patientId", "sessionId", name || ' called from ' || phone || ': hypertension, follow up in a month',
     json_build_object('reachedAt', phone) ${FROM}`,
  `insert into billing.payer (tenant_id, patient_id, name, phone, email, address)
   select $1::uuid, "patientId", name, phone, email, 'Karte Seh, Kabul' ${FROM}`,
  `insert into billing.charge (tenant_id, patient_id, session_id, amount_minor, currency, code)
   select $1::uuid, "patientId", "sessionId", 50000, 'AFN', 'CONSULT-REMOTE' ${FROM}`,
  `insert into billing.statement_file (tenant_id, patient_id, period, object_key)
   select $1::uuid, "patientId", '[2026-10-01,2026-11-01)', $1 || '/' || "patientId" || '/2026-10.pdf' ${FROM}`,
  `insert into communication.contact (tenant_id, person_id) select $1::uuid, "patientId" ${FROM}`,
  `insert into communication.thread (tenant_id, id, patient_id) select $1::uuid, "threadId", "patientId" ${FROM}`,
  `insert into communication.thread_participant (tenant_id, thread_id, contact_id)
   select $1::uuid, "threadId", c.id ${FROM} join communication.contact c on c.person_id = p."patientId"`,
  `insert into communication.thread_message (tenant_id, thread_id, sender_id, body)
   select $1::uuid, "threadId", c.id, 'My number is ' || phone || '. ' || name ${FROM}
     join communication.contact c on c.person_id = p."patientId"`,
  `insert into communication.thread_message (tenant_id, thread_id, sender_id, body)
   select $1::uuid, "threadId", gen_random_uuid(), 'Dear ' || name || ', please call us' ${FROM}`,
  `insert into communication.attachment (tenant_id, thread_id, patient_id, file_name, content_type, object_key)
   select $1::uuid, "threadId", "patientId", name || '.pdf', 'application/pdf',
     $1 || '/' || "patientId" || '/referral.pdf' ${FROM}`,
  `insert into communication.virtual_session (tenant_id, appointment_id, patient_id)
   select $1::uuid, "sessionId", "patientId" ${FROM}`,
  // The ids of messages are those of their sessions, so that the attempts below find them.
  `insert into communication.message (tenant_id, id, patient_id, channel, template, status, sent_at, recipient, variables)
   select $1::uuid, "sessionId", "patientId", 'sms', 'visit-summary', 'delivered', now(), phone,
     json_build_object('name', name) ${FROM}`,
  `insert into communication.dispatch_log (tenant_id, message_id, patient_id, channel, provider, recipient, request, response)
   select $1::uuid, "sessionId", "patientId", 'sms', 'roshan', phone, json_build_object('to', phone, 'text', 'Salaam ' || name),
     'queued for ' || phone ${FROM}`,
  // An attempt outside of any message, its number as a clerk typed it.
  `insert into communication.dispatch_log (tenant_id, channel, provider, recipient, response)
   select $1::uuid, 'sms', 'etisalat', translate(replace(phone, '+93', '0'), '0123456789', '۰۱۲۳۴۵۶۷۸۹'), 'ok' ${FROM}`,
]
