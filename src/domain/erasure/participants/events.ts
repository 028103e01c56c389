import type { Participant, Rows } from '../participant.ts'

/**
 * Messages in JetStream, in outboxes and in anybody's backup of them cannot be taken back; what they say of the subject is
 * sealed under the subject's key, which is destroyed here. What stays is a tombstone: no other key is ever made for them.
 * An event in quarantine that names the subject is emptied and never handled.
 */
export const events: Participant = {
  id: 'events',
  stage: 3,
  async erase(tx, { tenantId, hash, identifiers: { subjectId } }) {
    const [rows] = await tx.query<Rows>(
      `with held as (select wrapped from tabib.subject_key where tenant_id = $1 and subject_hash = $2),
         destroyed as (
           insert into tabib.subject_key as k (tenant_id, subject_hash, wrapped, destroyed_at)
           values ($1, $2, null, clock_timestamp())
           on conflict (tenant_id, subject_hash) do update set wrapped = null, destroyed_at = excluded.destroyed_at
             where k.wrapped is not null),
         emptied as (
           update tabib.quarantine
           set state = 'discarded', aggregate_id = null, detail = null, headers = null, payload = '', redacted = null,
             resolved_at = clock_timestamp(), resolved_by = 'erasure'
           where ${NAMES_SUBJECT} returning 1)
       select (select count(*) from held where wrapped is not null)::int as subject_key,
         (select count(*) from emptied)::int as quarantine`,
      [tenantId, hash, subjectId],
      'erase_events',
    )
    return rows!
  },
  async count(tx, { tenantId, hash, identifiers: { subjectId } }) {
    const [rows] = await tx.query<Rows>(
      `select (select count(*) from tabib.subject_key
               where tenant_id = $1 and subject_hash = $2 and wrapped is not null)::int as subject_key,
         (select count(*) from tabib.quarantine where ${NAMES_SUBJECT})::int as quarantine`,
      [tenantId, hash, subjectId],
      'count_events',
    )
    return rows!
  },
}

// Whatever else the payload is, an id in it stands as ASCII.
const NAMES_SUBJECT = `tenant_id = $1::text
  and (aggregate_id = $3::text or position(convert_to($3, 'UTF8') in payload) > 0)`
