import type { Bucket } from '../../adapters/objects/client.ts'
import type { Participant, Subject } from './participant.ts'

/**
 * All objects of a subject in one bucket: keys are `<tenant>/<patient>/<name>`, so that one whose row was lost, or is not
 * written yet, is found as well.
 */
export function objectsOf(bucket: Bucket): NonNullable<Participant['outside']> {
  const prefix = ({ tenantId, identifiers: { subjectId } }: Subject) => `${tenantId}/${subjectId}/`
  return {
    async count({ objects }, subject) {
      return { [bucket]: (await objects?.list(bucket, prefix(subject)))?.length ?? 0 }
    },
    async erase({ objects }, subject) {
      for (const key of (await objects?.list(bucket, prefix(subject))) ?? [])
        await objects?.remove(bucket, key)
    },
    position: async () => `objects:${bucket}`,
  }
}
