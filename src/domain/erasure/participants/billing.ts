import type { Participant, Rows } from '../participant.ts'

/**
 * Accounts, entries and charges stay, as the law wants: they carry the patient's id, which nobody can tell from another
 * once virtual care has forgotten it. What names a person goes.
 */
export const billing: Participant = {
  id: 'billing',
  stage: 2,
  async erase(tx, { identifiers: { subjectId } }) {
    const [rows] = await tx.query<Rows>(
      `with payer as (
         update billing.payer set name = 'erased', phone = null, email = null, address = null
         where patient_id = $1 and ${NAMES_SOMEBODY} returning 1)
       select count(*)::int as payer from payer`,
      [subjectId],
      'erase_billing',
    )
    return rows!
  },
  async count(tx, { identifiers: { subjectId } }) {
    const [rows] = await tx.query<Rows>(
      `select count(*)::int as payer from billing.payer where patient_id = $1 and ${NAMES_SOMEBODY}`,
      [subjectId],
      'count_billing',
    )
    return rows!
  },
}

const NAMES_SOMEBODY = `(name <> 'erased' or coalesce(phone, email, address) is not null)`
