import { createHmac } from 'node:crypto'
import type { Queryable } from '../../adapters/postgres/client.ts'
import { seal, unseal } from './sealed.ts'
import type { ErasureSecret } from './secret.ts'

/** By what a subject can be recognised. Held only while an erasure is open, and then only sealed. */
export interface Identifiers {
  /** The patient's id in virtual care. */
  subjectId: string
  names: string[]
  phones: string[]
  emails: string[]
  nationalIds: string[]
}

/** All that the stores say of a subject, in a transaction of the tenant's. */
export async function gatherIdentifiers(tx: Queryable, subjectId: string): Promise<Identifiers> {
  const [found] = await tx.query<Omit<Identifiers, 'subjectId'>>(
    `with said as (
       select name, phone, email, national_id from virtual_care.patient where id = $1
       union all select name, phone, email, null from billing.payer where patient_id = $1 and phone is not null
       union all
       select null, case when recipient !~ '@' then recipient end, case when recipient ~ '@' then recipient end, null
       from (select recipient from communication.message where patient_id = $1
             union select recipient from communication.dispatch_log where patient_id = $1) sent
     )
     select coalesce(array_agg(distinct name) filter (where name is not null), '{}') as names,
       coalesce(array_agg(distinct phone) filter (where phone is not null), '{}') as phones,
       coalesce(array_agg(distinct email) filter (where email is not null), '{}') as emails,
       coalesce(array_agg(distinct national_id) filter (where national_id is not null), '{}') as "nationalIds"
     from said`,
    [subjectId],
  )
  return { subjectId, ...found! }
}

/** Both, once each. */
export function mergeIdentifiers(one: Identifiers, other: Identifiers): Identifiers {
  const both = (key: 'names' | 'phones' | 'emails' | 'nationalIds') => [
    ...new Set([...one[key], ...other[key]]),
  ]
  return {
    subjectId: one.subjectId,
    names: both('names'),
    phones: both('phones'),
    emails: both('emails'),
    nationalIds: both('nationalIds'),
  }
}

/** For `tabib.erasure_request.sealed`; opens in that request alone. */
export const sealIdentifiers = (secret: ErasureSecret, requestId: string, identifiers: Identifiers): Buffer =>
  seal(secret.derive('identifiers'), Buffer.from(JSON.stringify(identifiers)), requestId)

export const unsealIdentifiers = (secret: ErasureSecret, requestId: string, sealed: Buffer): Identifiers =>
  JSON.parse(unseal(secret.derive('identifiers'), sealed, requestId).toString())

/** A key of fewer digits is a service's short code, and may be anybody's. */
export const SHORTEST_PHONE = 7

const DIGITS = '۰۱۲۳۴۵۶۷۸۹٠١٢٣٤٥٦٧٨٩'

/** The last nine digits, in ASCII, whatever country code, trunk zero, script or spacing it is written with. */
export const phoneKey = (phone: string): string =>
  [...phone]
    .map((char) => (DIGITS.includes(char) ? String(DIGITS.indexOf(char) % 10) : char))
    .join('')
    .replace(/\D/g, '')
    .slice(-9)

export const emailKey = (email: string): string => email.trim().toLowerCase()

/** Keyed hashes of identifiers, by which late data is recognised once the identifiers themselves are destroyed. */
export function fingerprints(
  secret: ErasureSecret,
  tenantId: string,
  { phones, emails }: Pick<Identifiers, 'phones' | 'emails'>,
): { kind: 'phone' | 'email'; fingerprint: Buffer }[] {
  const of = (kind: 'phone' | 'email', value: string) => ({
    kind,
    fingerprint: createHmac('sha256', secret.derive('fingerprint'))
      .update(`${tenantId}/${kind}/${value}`)
      .digest(),
  })
  return [...new Set(phones.map(phoneKey).filter((key) => key.length >= SHORTEST_PHONE))]
    .map((key) => of('phone', key))
    .concat([...new Set(emails.map(emailKey))].map((key) => of('email', key)))
}
