import { type Database, isDatabaseAway } from '../../adapters/postgres/client.ts'

/** What was found, and as of when where a replica told it. */
export type Degraded<T> = { found: T } & (
  | { asOf: undefined; ageS: 0 }
  | {
      /** Nothing that was committed until then is missing. */
      asOf: Date
      /** Seconds since. An idle primary makes them more than they are: nothing tells a replica that nothing happened. */
      ageS: number
    }
)

/**
 * Reads from the primary; while none answers from any host that does, and then says as of when that is so.
 *
 * @throws TabibError POSTGRES_UNREACHABLE when nobody answers.
 */
export async function readDegraded<T>(
  { db, replica }: { db: Database; replica: Database },
  read: (db: Database) => Promise<T>,
): Promise<Degraded<T>> {
  try {
    return { found: await read(db), asOf: undefined, ageS: 0 }
  } catch (error) {
    if (!isDatabaseAway(error)) throw error
  }
  // Asked before: what is read may be newer, and is never older.
  const [reached] = await replica.query<{ asOf: Date; ageS: number }>(
    `select at as "asOf", greatest(0, extract(epoch from clock_timestamp() - at))::float8 as "ageS"
     from (select case when pg_is_in_recovery()
       then coalesce(pg_last_xact_replay_timestamp(), pg_postmaster_start_time()) else clock_timestamp() end as at) reached`,
  )
  return { found: await read(replica), asOf: reached!.asOf, ageS: reached!.ageS }
}
