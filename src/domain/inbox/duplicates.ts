import type { Queryable } from '../../adapters/postgres/client.ts'

export interface Duplicates {
  /** Effects beyond the first of each event or appointment. */
  count: number
  /** Up to five of the keys that have more than one. */
  keys: string[]
}

/** Charges that one event has caused more than once (`billing/FM-08`). Reads every charge: minutes apart, not seconds. */
export function duplicateCharges({ db }: { db: Queryable }): Promise<Duplicates> {
  return duplicates({ db }, 'billing.charge', 'event_id')
}

/** Sessions that one appointment has more than one of (`communication/C18`). */
export function duplicateSessions({ db }: { db: Queryable }): Promise<Duplicates> {
  return duplicates({ db }, 'communication.virtual_session', 'appointment_id')
}

async function duplicates(
  { db }: { db: Queryable },
  table: 'billing.charge' | 'communication.virtual_session',
  key: 'event_id' | 'appointment_id',
): Promise<Duplicates> {
  const [row] = await db.query<{ count: number; keys: string[] | null }>(
    `select coalesce(sum(n - 1), 0)::float8 as count, (array_agg(key order by key))[1:5] as keys
     from (
       select ${key}::text as key, count(*) as n from ${table}
       where ${key} is not null
       group by tenant_id, ${key}
       having count(*) > 1
     ) doubled`,
  )
  return { count: row?.count ?? 0, keys: row?.keys ?? [] }
}
