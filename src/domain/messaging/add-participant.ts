import type { Database } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { asTenant } from '../sessions/tenant.ts'

/**
 * Adds a contact to a thread, both of one tenant; twice is once. A contact or thread that the tenant does not have is
 * refused, the refusal put on record, and the same told whether it exists elsewhere or nowhere. The database refuses too,
 * should this function be wrong: row-level security hides what is another's, and the keys carry the tenant.
 *
 * @throws TabibError NOT_FOUND
 */
export async function addParticipant(
  { db }: { db: Database },
  { tenantId, threadId, contactId }: { tenantId: string; threadId: string; contactId: string },
): Promise<void> {
  const added = await asTenant(db, tenantId, async (tx) => {
    const [known] = await tx.query<{ both: boolean }>(
      `select exists (select from communication.thread where id = $1)
          and exists (select from communication.contact where id = $2) as both`,
      [threadId, contactId],
    )
    if (!known!.both) {
      await tx.query(
        `insert into communication.participant_refusal (tenant_id, thread_id, contact_id) values ($1, $2, $3)`,
        [tenantId, threadId, contactId],
      )
      return false
    }
    await tx.query(
      `insert into communication.thread_participant (tenant_id, thread_id, contact_id) values ($1, $2, $3)
       on conflict do nothing`,
      [tenantId, threadId, contactId],
    )
    return true
  })
  if (added) return
  throw new TabibError('NOT_FOUND', `the tenant has no thread ${threadId} with such a contact ${contactId}`, {
    ref: 'runbooks/communication/c12-cross-tenant-participant.md',
    retryable: false,
  })
}
