import { emailKey, phoneKey } from '../identifiers.ts'
import type { Participant, Subject } from '../participant.ts'
import { askRedis } from '../redis.ts'

/** What services keep in Redis of a patient (docs/erasure.md): one hash a patient, and where a number or address leads. */
export const cache: Participant = {
  id: 'cache',
  stage: 4,
  outside: {
    async count({ redis }, subject) {
      return { cache: await askRedis(redis, (ready) => ready.exists(...cacheKeys(subject))) }
    },
    async erase({ redis }, subject) {
      await askRedis(redis, (ready) => ready.unlink(...cacheKeys(subject)))
    },
    async position({ redis }) {
      const info = await askRedis(redis, (ready) => ready.info('replication'))
      return `redis:${/master_repl_offset:(\d+)/.exec(info)?.[1] ?? '0'}`
    },
  },
  // Nothing of it lies in Postgres.
  erase: async () => ({}),
  count: async () => ({}),
}

/** Keys under which services cache what they know of a patient. */
export function cacheKeys({
  tenantId,
  identifiers: { subjectId, phones, emails },
}: Pick<Subject, 'tenantId' | 'identifiers'>): string[] {
  const of = (kind: string, id: string) => `${kind}:${tenantId}:${id}`
  return [
    of('patient', subjectId),
    ...[...new Set(phones.map(phoneKey))].map((key) => of('phone', key)),
    ...[...new Set(emails.map(emailKey))].map((key) => of('email', key)),
  ]
}
