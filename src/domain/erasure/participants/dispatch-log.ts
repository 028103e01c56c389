import { emailKey, phoneKey, SHORTEST_PHONE } from '../identifiers.ts'
import type { Participant, Rows, Subject } from '../participant.ts'

/** That something was handed to a provider stays; to whom and what goes. */
export const dispatchLog: Participant = {
  id: 'dispatch-log',
  stage: 2,
  async erase(tx, subject) {
    const changed = await tx.query(
      `update communication.dispatch_log log
       set patient_id = $4, recipient = null, request = '{}', response = null
       where ${OF_SUBJECT} returning 1`,
      [...values(subject), subject.pseudonym],
      'erase_dispatch_log',
    )
    return { dispatch_log: changed.length }
  },
  async count(tx, subject) {
    const [rows] = await tx.query<Rows>(
      `select count(*)::int as dispatch_log from communication.dispatch_log log where ${OF_SUBJECT}`,
      values(subject),
      'count_dispatch_log',
    )
    return rows!
  },
}

function values({ identifiers: { subjectId, phones, emails }, pseudonym }: Subject): unknown[] {
  const keys = [
    ...phones.map(phoneKey).filter((key) => key.length >= SHORTEST_PHONE),
    ...emails.map(emailKey),
  ]
  return [subjectId, [subjectId, pseudonym], keys]
}

/**
 * By patient, by the message it was an attempt of, and, where neither tells, by where it went. A row that is another
 * patient's stays although it went to the same number.
 */
const OF_SUBJECT = `(
  log.patient_id = $1
  or (coalesce(log.recipient, log.response) is not null or log.request <> '{}') and (
    log.patient_id = any($2)
    or log.patient_id is null and log.message_id in (select id from communication.message where patient_id = any($2))
    or log.patient_id is null and communication.recipient_key(log.recipient) = any($3) and not exists (
      select from communication.message other where other.id = log.message_id and other.patient_id <> all($2))))`
