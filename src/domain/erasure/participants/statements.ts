import { objectsOf } from '../objects.ts'
import type { Participant, Rows } from '../participant.ts'

/** Statements that were made: the objects first, then the rows that name them. The ledger can make them again, nameless. */
export const statements: Participant = {
  id: 'statements',
  stage: 2,
  outside: objectsOf('statements'),
  async erase(tx, { identifiers: { subjectId } }) {
    const gone = await tx.query('delete from billing.statement_file where patient_id = $1 returning 1', [
      subjectId,
    ])
    return { statement_file: gone.length }
  },
  async count(tx, { identifiers: { subjectId } }) {
    const [rows] = await tx.query<Rows>(
      'select count(*)::int as statement_file from billing.statement_file where patient_id = $1',
      [subjectId],
    )
    return rows!
  },
}
