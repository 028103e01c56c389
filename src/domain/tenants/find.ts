import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { nearest } from '../../nearest.ts'

/** A tenant by its slug or id. @throws TabibError NOT_FOUND, with the slug that was probably meant. */
export async function findTenant(
  { db }: { db: Queryable },
  named: string,
): Promise<{ id: string; slug: string }> {
  const [found] = await db.query<{ id: string; slug: string }>(
    'select id, slug from tabib.tenant where slug = $1 or id::text = lower($1)',
    [named],
  )
  if (found) return found
  throw await unknownTenant(db, named)
}

/** What to say of a tenant that does not exist. */
export async function unknownTenant(db: Queryable, named: string): Promise<TabibError> {
  const rows = await db.query<{ slug: string }>('select slug from tabib.tenant order by slug limit 10000')
  const meant = nearest(
    named,
    rows.map(({ slug }) => slug),
  )
  return new TabibError('NOT_FOUND', `there is no tenant "${named}"`, {
    suggestions: [...(meant === undefined ? [] : [`tabib tenant check ${meant}`]), 'tabib tenant list'],
  })
}
