import type { Participant, Rows } from '../participant.ts'

/**
 * Messages in JetStream, in outboxes and in anybody's backup of them cannot be taken back; what they say of the subject is
 * sealed under the subject's key, which is destroyed here. What stays is a tombstone: no other key is ever made for them.
 */
export const events: Participant = {
  id: 'events',
  stage: 3,
  async erase(tx, { tenantId, hash }) {
    const [rows] = await tx.query<Rows>(
      `with held as (select wrapped from tabib.subject_key where tenant_id = $1 and subject_hash = $2),
         destroyed as (
           insert into tabib.subject_key as k (tenant_id, subject_hash, wrapped, destroyed_at)
           values ($1, $2, null, clock_timestamp())
           on conflict (tenant_id, subject_hash) do update set wrapped = null, destroyed_at = excluded.destroyed_at
             where k.wrapped is not null)
       select count(*)::int as subject_key from held where wrapped is not null`,
      [tenantId, hash],
      'erase_events',
    )
    return rows!
  },
  async count(tx, { tenantId, hash }) {
    const [rows] = await tx.query<Rows>(
      `select count(*)::int as subject_key from tabib.subject_key
       where tenant_id = $1 and subject_hash = $2 and wrapped is not null`,
      [tenantId, hash],
      'count_events',
    )
    return rows!
  },
}
