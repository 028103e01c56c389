import type { Database, Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'

export interface Removal {
  name: string
  kid: string
  /** When they were removed before; null for an operator of today. */
  removedAt: Date | null
}

/**
 * Whom a removal would take out, or took out before.
 * @param least How many operators must be left.
 * @throws TabibError NOT_FOUND for whoever was never one, LAST_OPERATOR when fewer would be left.
 */
export async function planRemoval(
  { db }: { db: Queryable },
  { name, least }: { name: string; least: number },
): Promise<Removal> {
  const [known] = await db.query<Removal & { left: number }>(
    `select name, kid, removed_at as "removedAt",
       (select count(*)::int from tabib.operator o where o.removed_at is null and o.name <> $1) as left
     from tabib.operator where name = $1 order by removed_at desc nulls first limit 1`,
    [name],
  )
  if (known === undefined) {
    throw new TabibError('NOT_FOUND', `there is no operator "${name}"`, {
      suggestions: ['tabib operator list'],
    })
  }
  const { left, ...removal } = known
  if (removal.removedAt !== null || left >= least) return removal
  throw new TabibError(
    'LAST_OPERATOR',
    `without ${name} there ${left === 1 ? 'is one operator' : `are ${left} operators`}, and ${least} must be left`,
    { suggestions: ['tabib operator add <name>', 'tabib operator list'] },
  )
}

/**
 * Takes an operator's key out, for good. What it signed counts from then on only where it was used before. Again is no error.
 * @throws TabibError LAST_OPERATOR, also where two are removed at once.
 */
export async function removeOperator(
  { db }: { db: Database },
  { name, kid, least, by }: { name: string; kid: string; least: number; by: string },
): Promise<{ removed: boolean }> {
  return db.transaction(async (tx) => {
    // Two who remove each other: the second finds that too few would be left.
    await tx.query(`select pg_advisory_xact_lock(hashtextextended('tabib.operator', 0))`)
    await planRemoval({ db: tx }, { name, least })
    const removed = await tx.query(
      `update tabib.operator set removed_at = clock_timestamp(), removed_by = $2
       where kid = $1 and removed_at is null returning kid`,
      [kid, by],
    )
    return { removed: removed.length > 0 }
  })
}
