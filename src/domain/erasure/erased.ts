import type { Queryable } from '../../adapters/postgres/client.ts'
import type { ErasureSecret } from './secret.ts'

/** What it takes to tell whether somebody was erased. */
export interface ErasedSystems {
  readonly db: Queryable
  /** Asked only where somebody was erased. @throws TabibError CONFIG_INVALID when none is configured. */
  erasureSecret(): Promise<ErasureSecret>
}

/** The keyed hash of a patient who was erased, or whose erasure was accepted; undefined for everybody else. */
export async function erasedHash(
  { db, erasureSecret }: ErasedSystems,
  { tenantId, patientId }: { tenantId: string; patientId: string },
): Promise<Buffer | undefined> {
  const [somebody] = await db.query('select from tabib.erasure_subject where tenant_id = $1 limit 1', [
    tenantId,
  ])
  if (somebody === undefined) return undefined
  const hash = (await erasureSecret()).subjectHash(tenantId, patientId)
  const [erased] = await db.query(
    'select from tabib.erasure_subject where tenant_id = $1 and subject_hash = $2',
    [tenantId, hash],
  )
  return erased && hash
}
