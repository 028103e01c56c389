import type { Participant, Rows } from '../participant.ts'

/**
 * Accounts, entries and charges stay, as the law wants, under the pseudonym: entries and transactions name accounts alone,
 * and so need no change. Who pays goes.
 */
export const billing: Participant = {
  id: 'billing',
  stage: 2,
  async erase(tx, subject) {
    const { subjectId } = subject.identifiers
    const [rows] = await tx.query<Rows>(
      `with payer as (delete from billing.payer where patient_id = $1 returning 1),
         charge as (update billing.charge set patient_id = $3 where patient_id = $1 returning 1),
         refund as (update billing.refund set patient_id = $3 where patient_id = $1 returning 1),
         -- A charge that came late has opened a second account.
         account as (
           update billing.account set code = (
             select free.code from unnest($4::text[]) with ordinality free (code, n)
             where not exists (select from billing.account taken where taken.code = free.code) order by n limit 1)
           where code = $2 returning 1)
       select (select count(*) from payer)::int as payer, (select count(*) from charge)::int as charge,
         (select count(*) from refund)::int as refund, (select count(*) from account)::int as account`,
      [subjectId, codeOf(subjectId), subject.pseudonyms[0], subject.pseudonyms.map(codeOf)],
      'erase_billing',
    )
    return rows!
  },
  async count(tx, { identifiers: { subjectId } }) {
    const [rows] = await tx.query<Rows>(
      `select (select count(*) from billing.payer where patient_id = $1)::int as payer,
         (select count(*) from billing.charge where patient_id = $1)::int as charge,
         (select count(*) from billing.refund where patient_id = $1)::int as refund,
         (select count(*) from billing.account where code = $2)::int as account`,
      [subjectId, codeOf(subjectId)],
      'count_billing',
    )
    return rows!
  },
}

/** Of a patient's receivable account (domain/payments/charge.ts). */
const codeOf = (subjectId: string): string => `receivable:${subjectId}`
