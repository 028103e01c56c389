import { randomUUID } from 'node:crypto'
import { beforeEach } from 'vitest'
import type { Transaction } from '../../src/adapters/postgres/client.ts'
import { openAccount } from '../../src/domain/ledger/account.ts'
import { type NewTransaction, postTransaction } from '../../src/domain/ledger/post.ts'
import type { TestDatabase } from './database.ts'

/** A tenant of its own for each test, with the accounts `cash` and `revenue` in afghani. */
export function useLedger(database: TestDatabase) {
  const service = <T>(work: (tx: Transaction) => Promise<T>) =>
    database.service.transaction(async (tx) => {
      await tx.query(`select set_config('app.tenant_id', $1, true)`, [ledger.tenantId])
      return work(tx)
    })
  const ledger = {
    tenantId: '',
    cash: '',
    revenue: '',
    /** In a service's transaction for the tenant. */
    service,
    open: (code: string, currency = 'AFN') =>
      service((tx) => openAccount(tx, { tenantId: ledger.tenantId, code, currency })),
    /** From `revenue` to `cash`. */
    transaction: (amountMinor: bigint, over: Partial<NewTransaction> = {}): NewTransaction => ({
      tenantId: ledger.tenantId,
      kind: 'payment',
      businessKey: randomUUID(),
      entries: [
        { accountId: ledger.cash, amountMinor, currency: 'AFN' },
        { accountId: ledger.revenue, amountMinor: -amountMinor, currency: 'AFN' },
      ],
      ...over,
    }),
    post: (amountMinor: bigint, over: Partial<NewTransaction> = {}) =>
      service((tx) => postTransaction(tx, ledger.transaction(amountMinor, over))),
    /** What somebody with the owner's rights can do: the triggers are off while `statement` runs for the tenant. */
    tamper: (statement: string, values: unknown[] = []) =>
      database.owner.transaction(async (tx) => {
        const triggers = async (state: 'enable' | 'disable') => {
          for (const table of ['entry', 'journal_transaction']) {
            await tx.query(`alter table billing.${table} ${state} trigger user`)
          }
        }
        await tx.query(`select set_config('app.tenant_id', $1, true)`, [ledger.tenantId])
        await tx.query('alter table billing.entry no force row level security')
        await triggers('disable')
        const rows = await tx.query(`${statement} returning *`, values)
        if (rows.length === 0) throw new Error(`changed nothing: ${statement}`)
        await triggers('enable')
        await tx.query('alter table billing.entry force row level security')
      }),
  }
  beforeEach(async () => {
    ledger.tenantId = randomUUID()
    await database.db.query(
      `insert into tabib.tenant (id, slug, name, region, currency) values ($1, $1::uuid::text, 'Clinic', 'af', 'AFN')`,
      [ledger.tenantId],
    )
    ledger.cash = await ledger.open('cash')
    ledger.revenue = await ledger.open('revenue')
  })
  return ledger
}
