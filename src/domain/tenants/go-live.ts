import type { Database } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { planHash } from '../audit/canonical-json.ts'
import { lockTenant } from './apply.ts'
import { readTenant } from './read.ts'
import type { Tenant } from './tenant.ts'

/** What was examined, so that nothing else goes live. */
export const examined = (tenant: Tenant): string => planHash(tenant)

/**
 * Makes a tenant live that is still what was examined; doing it twice changes nothing.
 * @throws TabibError PLAN_STALE when it has been changed since.
 */
export async function goLive(
  { db }: { db: Database },
  { slug, document }: { slug: string; document: string },
): Promise<{ changed: boolean }> {
  return db.transaction(async (tx) => {
    await lockTenant(tx, slug)
    const stored = await readTenant(tx, slug)
    if (stored?.tenant.status === 'live') return { changed: false }
    if (stored === undefined || examined(stored.tenant) !== document) {
      throw new TabibError('PLAN_STALE', `${slug} has been changed since it was examined`, {
        suggestions: [`tabib tenant check ${slug}`],
      })
    }
    await tx.query(`update tabib.tenant set status = 'live' where slug = $1`, [slug])
    return { changed: true }
  })
}
