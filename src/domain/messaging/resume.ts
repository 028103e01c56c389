import type { Database, Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'

/**
 * Lets a tenant's messages of a category go out again, where `assertResumable` lets them.
 * @throws TabibError NOT_NEEDED, PATIENT_DATA_REFUSED
 */
export async function resumeCategory(
  { db }: { db: Database },
  { tenantId, category, by }: { tenantId: string; category: string; by: string },
): Promise<{ haltedAt: Date; resumedAt: Date }> {
  return db.transaction(async (tx) => {
    const { haltedAt } = await assertResumable({ db: tx }, { tenantId, category })
    const [resumed] = await tx.query<{ resumedAt: Date }>(
      `update communication.category_halt set resumed_at = clock_timestamp(), resumed_by = $3
       where tenant_id = $1 and category = $2 and resumed_at is null returning resumed_at as "resumedAt"`,
      [tenantId, category, by],
    )
    return { haltedAt, resumedAt: resumed!.resumedAt }
  })
}

/**
 * Refuses a category that is not halted; one with a template that was retired and has no version in use; one with a finding
 * that waits for its incident: what leaked would leak again. In a transaction the halt stays locked.
 *
 * @throws TabibError NOT_NEEDED, PATIENT_DATA_REFUSED
 */
export async function assertResumable(
  { db }: { db: Queryable },
  { tenantId, category }: { tenantId: string; category: string },
): Promise<{ haltedAt: Date }> {
  const [halt] = await db.query<{ haltedAt: Date }>(
    `select halted_at as "haltedAt" from communication.category_halt
     where tenant_id = $1 and category = $2 and resumed_at is null for update`,
    [tenantId, category],
  )
  if (halt === undefined) {
    throw new TabibError('NOT_NEEDED', `${category} is not halted for the tenant`, {
      suggestions: ['tabib messaging status'],
      retryable: false,
    })
  }
  const [left] = await db.query<{ waiting: number; without: string[] }>(
    `select (select count(*)::int from communication.phi_finding
             where tenant_id = $1 and category = $2 and incident_id is null) as waiting,
       (select coalesce(array_agg(id), '{}') from (
          select id from communication.template where category = $2 group by id
          having bool_or(state = 'retired') and not bool_or(state = 'current')) t) as without`,
    [tenantId, category],
  )
  const why =
    left!.waiting > 0
      ? `${left!.waiting} findings are not looked into yet: tabib messaging scan`
      : left!.without.length > 0
        ? `${left!.without.join(', ')} has no version in use: tabib messaging publish`
        : undefined
  if (why === undefined) return halt
  throw new TabibError('PATIENT_DATA_REFUSED', `${category} stays halted: ${why}`, {
    suggestions: ['tabib messaging status'],
    ref: 'runbooks/communication/c11-patient-data-in-push.md',
    retryable: false,
  })
}
