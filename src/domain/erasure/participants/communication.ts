import type { Participant, Rows } from '../participant.ts'

/** Contact, conversations and what was sent to the patient go; how many messages there were stays, under the pseudonym. */
export const communication: Participant = {
  id: 'communication',
  stage: 2,
  async erase(tx, { identifiers: { subjectId }, pseudonym }) {
    const [rows] = await tx.query<Rows>(
      `with said as (delete from communication.thread_message where ${SAID} returning 1),
         refusal as (delete from communication.participant_refusal where contact_id in (${CONTACT}) returning 1),
         member as (delete from communication.thread_participant where contact_id in (${CONTACT}) returning 1),
         thread as (update communication.thread set patient_id = $3 where patient_id = $1 returning 1),
         message as (
           update communication.message set patient_id = $3, recipient = null, variables = '{}',
             status = case status when 'queued' then 'cancelled' else status end
           where ${MESSAGE} returning 1),
         visit as (update communication.virtual_session set patient_id = $3 where patient_id = $1 returning 1)
       select (select count(*) from said)::int as thread_message, (select count(*) from refusal)::int as participant_refusal,
         (select count(*) from member)::int as thread_participant, (select count(*) from thread)::int as thread,
         (select count(*) from message)::int as message, (select count(*) from visit)::int as virtual_session`,
      [subjectId, [subjectId, pseudonym], pseudonym],
      'erase_communication',
    )
    // After the rows that refer to it.
    const contacts = await tx.query('delete from communication.contact where person_id = $1 returning 1', [
      subjectId,
    ])
    return { ...rows!, contact: contacts.length }
  },
  async count(tx, { identifiers: { subjectId }, pseudonym }) {
    const [rows] = await tx.query<Rows>(
      `select (select count(*) from communication.thread_message where ${SAID})::int as thread_message,
         (select count(*) from communication.participant_refusal where contact_id in (${CONTACT}))::int as participant_refusal,
         (select count(*) from communication.thread_participant where contact_id in (${CONTACT}))::int as thread_participant,
         (select count(*) from communication.thread where patient_id = $1)::int as thread,
         (select count(*) from communication.message where ${MESSAGE})::int as message,
         (select count(*) from communication.virtual_session where patient_id = $1)::int as virtual_session,
         (select count(*) from communication.contact where person_id = $1)::int as contact`,
      [subjectId, [subjectId, pseudonym]],
      'count_communication',
    )
    return rows!
  },
}

const CONTACT = 'select id from communication.contact where person_id = $1'
// Of the patient's own conversations whatever anybody said; of others what the patient said.
const SAID = `(sender_id = $1 or sender_id in (${CONTACT})
  or thread_id in (select id from communication.thread where patient_id = any($2)))`
const MESSAGE = `(patient_id = $1 or patient_id = any($2) and (recipient is not null or variables <> '{}'))`
