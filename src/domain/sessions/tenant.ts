import type { Database, Transaction } from '../../adapters/postgres/client.ts'

/** A transaction in which only one tenant's rows can be seen and written, whatever else the login may do. */
export function asTenant<T>(
  db: Database,
  tenantId: string,
  work: (tx: Transaction) => Promise<T>,
): Promise<T> {
  return db.transaction(async (tx) => {
    await tx.query(`select set_config('role', 'tabib_app', true), set_config('app.tenant_id', $1, true)`, [
      tenantId,
    ])
    return work(tx)
  })
}
