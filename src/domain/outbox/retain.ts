import type { Database } from '../../adapters/postgres/client.ts'
import { type Service, schemaOf } from '../../service.ts'

export interface Retained {
  /** Daily partitions made ahead, and dropped because all in them is published and old enough. */
  created: number
  dropped: number
  /** Rows in the default partition: more than a few mean that no partition was made in time. */
  inDefault: number
}

/**
 * Makes the outbox's partitions of the coming days and drops those that have served. A mapped outbox is its owner's
 * business and is left alone.
 *
 * @throws TabibError LOCKED when a long transaction holds the table: the next pass tries again.
 */
export async function retainOutbox(
  { db }: { db: Database },
  { service, retentionMs }: { service: Service; retentionMs: number },
): Promise<Retained> {
  const [row] = await db.query<Retained>(
    `select created, dropped, in_default::float8 as "inDefault"
     from tabib.maintain_outbox($1, make_interval(secs => $2))`,
    [schemaOf(service), retentionMs / 1_000],
  )
  return row ?? { created: 0, dropped: 0, inDefault: 0 }
}
