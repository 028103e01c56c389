import type { Queryable } from '../../adapters/postgres/client.ts'

/** Virtual sessions beyond the first of an appointment. Reads ids only. */
export async function duplicateSessions({ db }: { db: Queryable }): Promise<number> {
  const [row] = await db.query<{ doubled: number }>(
    `select coalesce(sum(n - 1), 0)::float8 as doubled from (
       select count(*) as n from communication.virtual_session
       group by tenant_id, appointment_id having count(*) > 1) again`,
  )
  return row?.doubled ?? 0
}
