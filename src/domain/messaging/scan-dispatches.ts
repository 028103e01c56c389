import type { Database, Queryable } from '../../adapters/postgres/client.ts'
import { foldText } from '../erasure/characters.ts'
import { asTenant } from '../sessions/tenant.ts'
import { type FoundPatientData, recordFinding } from './finding.ts'
import { groupedBy, knownPatients, openPatientDataFinder, textOf } from './patient-data.ts'

interface Attempt {
  id: string
  tenantId: string
  patientId: string | null
  channel: string
  category: string
  recipient: string | null
  template: string | null
  version: number | null
  request: Record<string, unknown>
  response: string | null
  /** What stands in its template, whoever is written to. */
  standing: string | null
}

/** Members of a request that say where it goes: there the recipient's number belongs, and nothing else. */
const ADDRESSES = new Set(['to', 'recipient', 'token', 'destination', 'msisdn', 'address'])

/**
 * Attempts in the dispatch log that hold patient data and were not read yet, and how many were read. Reads only.
 * The address that something was sent to is no leak; anything else that was sent, or answered, is.
 */
export async function leakingDispatches(
  { db }: { db: Database },
  { limit }: { limit: number },
): Promise<{ read: { id: string; tenantId: string }[]; found: FoundPatientData[] }> {
  const attempts = await unread(db, limit)
  const found: FoundPatientData[] = []
  for (const [tenantId, own] of groupedBy(attempts, (one) => one.tenantId)) {
    const ids = [...new Set(own.flatMap(({ patientId }) => patientId ?? []))]
    const patients = await asTenant(db, tenantId, (tx) => knownPatients(tx, ids))
    const { kindsIn } = openPatientDataFinder(patients, own.map(({ standing }) => standing ?? '').join(' '))
    for (const attempt of own) {
      const evidence = evidenceIn(attempt, kindsIn)
      if (Object.keys(evidence).length === 0) continue
      const { id, channel, category, template, version } = attempt
      found.push({
        ...{ tenantId, source: 'dispatch-log', place: id, channel, category, evidence },
        template: template === null || version === null ? null : { id: template, version },
      })
    }
  }
  return { read: attempts.map(({ id, tenantId }) => ({ id, tenantId })), found }
}

/** One round of `leakingDispatches`, put on record: each leak halts its category. */
export async function scanDispatches(
  systems: { db: Database },
  { limit }: { limit: number },
): Promise<{ read: number; leaking: number }> {
  const { read, found } = await leakingDispatches(systems, { limit })
  let leaking = 0
  await systems.db.transaction(async (tx) => {
    for (const one of found) if (await recordFinding(tx, one)) leaking++
    await tx.query(
      'update communication.dispatch_log set scanned_at = clock_timestamp() where id = any($1) and scanned_at is null',
      [read.map(({ id }) => id)],
    )
  })
  return { read: read.length, leaking }
}

function evidenceIn(
  { request, response, recipient }: Attempt,
  kindsIn: (text: string) => string[],
): Record<string, string[]> {
  const sent = withoutAddress(request ?? {}, recipient) as Record<string, unknown>
  // Providers repeat whom they were told to send to.
  const answer = recipient ? response?.replaceAll(recipient, ' ') : response
  // All members together as well: a number may be split over two.
  const parts: [string, unknown][] = [...Object.entries(sent), ['response', answer], ['request', sent]]
  const evidence: Record<string, string[]> = {}
  for (const [name, value] of parts) {
    if (value === null || value === undefined) continue
    const known = new Set(Object.values(evidence).flat())
    const kinds = kindsIn(typeof value === 'string' ? value : textOf(value))
    const fresh = name === 'request' ? kinds.filter((kind) => !known.has(kind)) : kinds
    if (fresh.length > 0) evidence[/^[\w-]{1,40}$/.test(name) ? name : '(member)'] = fresh
  }
  return evidence
}

function withoutAddress(value: unknown, recipient: string | null): unknown {
  if (Array.isArray(value)) return value.map((one) => withoutAddress(one, recipient))
  if (typeof value !== 'object' || value === null) return value
  const isAddress = (name: string, inner: unknown) =>
    ADDRESSES.has(name.toLowerCase()) &&
    typeof inner === 'string' &&
    (recipient === null || addressKey(inner) === addressKey(recipient))
  return Object.fromEntries(
    Object.entries(value)
      .filter(([name, inner]) => !isAddress(name, inner))
      .map(([name, inner]) => [name, withoutAddress(inner, recipient)]),
  )
}

/** One address however it is written: the last nine digits of a number, small letters of anything else. */
function addressKey(address: string): string {
  const folded = foldText(address)
  const digits = folded.replace(/[^0-9]/g, '')
  return /^[+(]?[0-9 ()-]+$/.test(folded) && digits.length >= 9 ? digits.slice(-9) : folded.toLowerCase()
}

function unread(db: Queryable, limit: number): Promise<Attempt[]> {
  return db.query<Attempt>(
    `select log.id, log.tenant_id as "tenantId", log.patient_id as "patientId", log.channel,
       coalesce(log.category, template.category, log.channel) as category,
       log.recipient, log.template, log.template_version as version, log.request, log.response,
       concat_ws(' ', template.subject, template.body) as standing
     from communication.dispatch_log log
     left join communication.template template on template.id = log.template and template.version = log.template_version
     where scanned_at is null order by attempted_at limit $1`,
    [limit],
  )
}
