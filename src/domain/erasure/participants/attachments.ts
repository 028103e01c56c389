import { TabibError } from '../../../errors.ts'
import type { Participant, Rows, Subject } from '../participant.ts'

/** Files that were sent in conversations: they go first, then the rows that name them. */
export const attachments: Participant = {
  id: 'attachments',
  stage: 2,
  outside: {
    async count({ attachments }, subject) {
      return { files: (await attachments?.list(prefix(subject)))?.length ?? 0 }
    },
    async erase({ attachments }, subject) {
      for (const key of (await attachments?.list(prefix(subject))) ?? []) await attachments?.remove(key)
    },
    position: async () => 'files:removed',
  },
  async erase(tx, { identifiers: { subjectId } }, stores) {
    const gone = await tx.query('delete from communication.attachment where patient_id = $1 returning 1', [
      subjectId,
    ])
    if (gone.length > 0 && stores.attachments === undefined) {
      throw new TabibError(
        'CONFIG_INVALID',
        `${gone.length} attachments are named, and no erasure.attachments is configured: their files would stay`,
        { suggestions: ['export TABIB_ATTACHMENTS=<folder>'] },
      )
    }
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

// Keys are `<tenant>/<patient>/<name>`, so that a file whose row was lost, or is not written yet, is found as well.
const prefix = ({ tenantId, identifiers: { subjectId } }: Subject): string => `${tenantId}/${subjectId}/`
