import { createHash } from 'node:crypto'
import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Attachments } from '../adapters/attachments/client.ts'
import type { Fetch } from '../adapters/http/client.ts'
import type { Database, Transaction } from '../adapters/postgres/client.ts'
import type { Redis } from '../adapters/redis/client.ts'
import type { Config } from '../config.ts'
import { cacheKeys } from '../domain/erasure/participants/cache.ts'
import { askRedis } from '../domain/erasure/redis.ts'
import type { ErasureSecret } from '../domain/erasure/secret.ts'
import { sealForSubject } from '../domain/erasure/subject-key.ts'
import { asTenant } from '../domain/sessions/tenant.ts'
import { openStore } from '../domain/statements/store.ts'
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
  readonly db: Database
  readonly service: Database
  readonly redis: Redis
  readonly attachments: Attachments | undefined
  readonly config: Config
  fetch(tenantId: string): Fetch
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

/** Makes one patient of a tenant of whom nothing is known but name and number: Zarghuna Ahmadzai, +93700123456. */
export async function plantPatient(service: Database, tenantId: string): Promise<string> {
  return asTenant(service, tenantId, async (tx) => {
    const [patient] = await tx.query<{ id: string }>(
      `insert into virtual_care.patient (tenant_id, id, name, language, phone)
       values ($1, gen_random_uuid(), 'Zarghuna Ahmadzai', 'ps-AF', '+93700123456') returning id`,
      [tenantId],
    )
    return patient!.id
  })
}

async function plant(systems: PlantingSystems, tenantId: string, patients: PlantedPatient[]): Promise<void> {
  const secret = await systems.erasureSecret()
  await systems.service.transaction(async (tx) => {
    await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
    for (const insert of INSERTS) await tx.query(insert, [tenantId, JSON.stringify(patients)])
    for (const patient of patients) await announce(tx, secret, patient)
  })
  for (const patient of patients) {
    const key = `${patient.tenantId}/${patient.patientId}/referral.pdf`
    await systems.attachments?.put(key, Buffer.from(patient.name))
    await cachePatient(systems, patient)
  }
  await state(systems, tenantId, patients)
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

const PERIOD = '2026-10'

/** A statement for each, as a run leaves them. */
async function state(systems: PlantingSystems, tenantId: string, patients: PlantedPatient[]): Promise<void> {
  const codes = patients.map(({ patientId }) => `receivable:${patientId}`)
  const store = await openStore(systems, tenantId)
  const accounts = await systems.db.query<{ id: string; name: string }>(
    `select a.id, p.name from unnest($2::text[], $3::text[]) p (code, name)
     join billing.account a on a.tenant_id = $1 and a.code = p.code`,
    [tenantId, codes, patients.map(({ name }) => name)],
  )
  for (const { id, name } of accounts) {
    const draft = join(store.drafts, `${id}.draft`)
    await writeFile(draft, name)
    const sha256 = createHash('sha256').update(name).digest('hex')
    await store.put(`${tenantId}/${PERIOD}/${id}.pdf`, {
      path: draft,
      sha256,
      bytes: Buffer.byteLength(name),
    })
    await rm(draft, { force: true })
  }
  await systems.db.transaction(async (tx) => {
    await tx.query(
      `insert into billing.statement_run (tenant_id, period, time_zone, starts_at, ends_at, batch_size)
       values ($1, $2, 'Asia/Kabul', '2026-09-30T19:30Z', '2026-10-31T19:30Z', 1000) on conflict do nothing`,
      [tenantId, PERIOD],
    )
    await tx.query(
      `update billing.statement_run set laid_out_at = started_at, finished_at = started_at where tenant_id = $1`,
      [tenantId],
    )
    await tx.query(
      `insert into billing.statement_batch (tenant_id, run_id, n, state)
       select tenant_id, id, 1, 'done' from billing.statement_run where tenant_id = $1 on conflict do nothing`,
      [tenantId],
    )
    await tx.query(
      `insert into billing.statement (tenant_id, run_id, account_id, n, batch, state, sha256, pages, bytes, object_key, settled_at)
       select r.tenant_id, r.id, account.id,
         (select count(*) from billing.statement s where s.run_id = r.id) + account.n, 1, 'rendered',
         repeat('0', 64), 1, 1, r.tenant_id || '/' || r.period || '/' || account.id || '.pdf', now()
       from billing.statement_run r, unnest($2::uuid[]) with ordinality account (id, n) where r.tenant_id = $1`,
      [tenantId, accounts.map(({ id }) => id)],
    )
  })
}

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
  `insert into billing.account (tenant_id, code, currency)
   select $1::uuid, 'receivable:' || "patientId", 'AFN' ${FROM} union all select $1::uuid, 'revenue', 'AFN'
   on conflict (tenant_id, code) do nothing`,
  // The ids of charges are those of their sessions.
  `insert into billing.charge
     (tenant_id, id, patient_id, session_id, amount_minor, currency, code, account_id, transaction_id)
   select $1::uuid, "sessionId", "patientId", "sessionId", 50000, 'AFN', 'CONSULT-REMOTE', owed.id, posted.transaction_id
   ${FROM}
     join billing.account owed on owed.tenant_id = $1 and owed.code = 'receivable:' || "patientId"
     join billing.account revenue on revenue.tenant_id = $1 and revenue.code = 'revenue',
     lateral billing.post($1::uuid, 'charge', 'charge:' || "sessionId", array[owed.id, revenue.id],
       array[50000, -50000], array['AFN', 'AFN']) as posted`,
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
