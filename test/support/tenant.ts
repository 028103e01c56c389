import { randomUUID } from 'node:crypto'
import type { Queryable } from '../../src/adapters/postgres/client.ts'

/** Registers a live tenant in Herat that charges in afghani, and returns its id. */
export async function liveTenant(db: Queryable): Promise<string> {
  const id = randomUUID()
  await db.query(
    `insert into tabib.tenant (id, slug, name, region, currency, status)
     values ($1::uuid, $1::text, 'Herat', 'af-herat', 'AFN', 'live')`,
    [id],
  )
  return id
}
