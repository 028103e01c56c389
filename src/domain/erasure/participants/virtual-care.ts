import type { Participant, Rows } from '../participant.ts'

/** The patient and what was written about them go; visits stay as figures, under the pseudonym. */
export const virtualCare: Participant = {
  id: 'virtual-care',
  stage: 1,
  async erase(tx, { identifiers: { subjectId }, pseudonym }) {
    const [rows] = await tx.query<Rows>(
      `with visit as (select id from virtual_care.session where patient_id = any($2)),
         note as (delete from virtual_care.encounter_note
                  where patient_id = $1 or session_id in (select id from visit) returning 1),
         patient as (delete from virtual_care.patient where id = $1 returning 1),
         appointment as (update virtual_care.appointment set patient_id = $3 where patient_id = $1 returning 1),
         session as (update virtual_care.session set patient_id = $3 where patient_id = $1 returning 1),
         -- Somebody may stand in a session twice, when a late event put them there again.
         participant as (
           update virtual_care.participant p set person_id = case when exists (
               select from virtual_care.participant other
               where (other.tenant_id, other.session_id, other.person_id) = (p.tenant_id, p.session_id, $3))
             then gen_random_uuid() else $3 end
           where person_id = $1 returning 1)
       select (select count(*) from note)::int as encounter_note, (select count(*) from patient)::int as patient,
         (select count(*) from appointment)::int as appointment, (select count(*) from session)::int as session,
         (select count(*) from participant)::int as participant`,
      [subjectId, [subjectId, pseudonym], pseudonym],
      'erase_virtual_care',
    )
    return rows!
  },
  async count(tx, { identifiers: { subjectId }, pseudonym }) {
    const [rows] = await tx.query<Rows>(
      `select
         (select count(*) from virtual_care.encounter_note where patient_id = $1 or session_id in (
            select id from virtual_care.session where patient_id = any($2)))::int as encounter_note,
         (select count(*) from virtual_care.patient where id = $1)::int as patient,
         (select count(*) from virtual_care.appointment where patient_id = $1)::int as appointment,
         (select count(*) from virtual_care.session where patient_id = $1)::int as session,
         (select count(*) from virtual_care.participant where person_id = $1)::int as participant`,
      [subjectId, [subjectId, pseudonym]],
      'count_virtual_care',
    )
    return rows!
  },
}
