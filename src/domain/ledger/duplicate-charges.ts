import type { Queryable } from '../../adapters/postgres/client.ts'

/** Charges beyond the first that one event caused: each is a patient charged twice. Reads ids only. */
export async function duplicateCharges({ db }: { db: Queryable }): Promise<number> {
  const [row] = await db.query<{ doubled: number }>(
    `select coalesce(sum(n - 1), 0)::float8 as doubled from (
       select count(*) as n from billing.charge where event_id is not null
       group by tenant_id, event_id having count(*) > 1) again`,
  )
  return row?.doubled ?? 0
}
