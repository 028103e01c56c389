import { objectsOf } from '../objects.ts'
import type { Participant, Rows } from '../participant.ts'

/** Files that were sent in conversations: the objects first, then the rows that name them. */
export const attachments: Participant = {
  id: 'attachments',
  stage: 2,
  outside: objectsOf('attachments'),
  async erase(tx, { identifiers: { subjectId } }) {
    const gone = await tx.query('delete from communication.attachment where patient_id = $1 returning 1', [
      subjectId,
    ])
    return { attachment: gone.length }
  },
  async count(tx, { identifiers: { subjectId } }) {
    const [rows] = await tx.query<Rows>(
      'select count(*)::int as attachment from communication.attachment where patient_id = $1',
      [subjectId],
    )
    return rows!
  },
}
