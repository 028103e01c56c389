import type { Queryable } from '../../adapters/postgres/client.ts'
import type { Service } from '../../service.ts'

/**
 * Events of a service in quarantine that nobody has settled: open, or sent again without a result yet. Events that are
 * only held behind one of these don't count: they follow by themselves.
 */
export async function openQuarantine(
  { db }: { db: Queryable },
  { service, origin }: { service: Service; origin?: 'outbox' | 'inbox' },
): Promise<number> {
  const [row] = await db.query<{ open: number }>(
    `select count(*)::float8 as open from tabib.quarantine
     where service = $1 and ($2::text is null or origin = $2) and state in ('open', 'redriving')`,
    [service, origin],
  )
  return row?.open ?? 0
}
