import type { Database } from '../../adapters/postgres/client.ts'
import { Pace } from './digest.ts'
import { examineAccount, type LedgerFinding, type Names } from './examine.ts'

/** An account whose balance is not what its entries sum to. */
export interface Drift {
  tenantId: string
  accountId: string
  balanceMinor: bigint
  /** Sum and number of its entries. */
  entriesMinor: string
  seq: bigint
  entries: bigint
}

/**
 * Adds up every account, and says of those that do not what is wrong with them, as `verifyLedger` would, but without a seal:
 * whether all balances are right, in seconds. What two people explained is no drift.
 */
export async function verifyBalances(
  app: { db: Database; erasureSecret?: Names },
  { signal }: { signal?: AbortSignal | undefined } = {},
): Promise<LedgerFinding[]> {
  const findings: LedgerFinding[] = []
  for (const { tenantId, accountId } of await driftedAccounts(app, { limit: MOST_TOLD, signal })) {
    const suspect = { tenantId, accountId, sealed: undefined }
    findings.push(...(await examineAccount(app.db, suspect, undefined, app.erasureSecret)))
  }
  return findings
}

// More are one catastrophe, not as many cases.
const MOST_TOLD = 200
const NIL = '00000000-0000-0000-0000-000000000000'

/**
 * Accounts whose balance is not the sum of their entries, or whose sequence is not their number; each statement sees one
 * snapshot, so posting meanwhile is no drift. Postgres sums, in the order of an index that holds all it needs; what
 * comes here is what differs. The quick look at a whole ledger: rewritten history is for `verifyLedger`.
 */
export async function driftedAccounts(
  { db }: { db: Database },
  { limit = 1_000, signal }: { limit?: number; signal?: AbortSignal | undefined } = {},
): Promise<Drift[]> {
  await using connection = await db.connection()
  const drifts: Drift[] = []
  const pace = new Pace({ rowsAtFirst: 4_000, mostRows: 20_000 })
  const tenants = await connection.query<{ id: string }>('select id from tabib.tenant order by id')
  for (const tenant of tenants) {
    for (let after: string | null = NIL; after !== null; ) {
      signal?.throwIfAborted()
      const { rows } = pace
      const place: string[] = [tenant.id, after]
      const [end]: { upTo: string | null }[] = await connection.query(
        `select (select account_id from billing.balance where tenant_id = $1 and account_id > $2
                 order by account_id offset $3::int - 1 limit 1) as "upTo"`,
        [...place, rows],
      )
      await connection.query('begin')
      try {
        // Left alone the planner hashes the groups, at a fifth of the rate.
        await connection.query(
          `select set_config(name, 'off', true) from unnest(array['enable_hashagg', 'enable_hashjoin', 'enable_seqscan',
           'enable_bitmapscan', 'enable_nestloop', 'jit']) name`,
        )
        drifts.push(
          ...(await pace.time(rows, () =>
            // The sums end with the balances: a bound of their own would be asked of every entry.
            connection.query<Drift>(
              `select b.tenant_id as "tenantId", b.account_id as "accountId", b.balance_minor as "balanceMinor",
                  coalesce(e.sum, 0) as "entriesMinor", b.seq, coalesce(e.count, 0) as entries
               from (
                 select * from billing.balance where tenant_id = $1 and account_id > $2 order by account_id limit $3
               ) b left join (
                 select account_id, sum(amount_minor) as sum, count(*) as count, max(seq) as last
                 from billing.entry where tenant_id = $1 and account_id > $2
                 group by account_id
               ) e on e.account_id = b.account_id
               where b.balance_minor <> coalesce(e.sum, 0) or b.seq <> coalesce(e.count, 0) or b.seq <> coalesce(e.last, 0)
               order by b.account_id limit $4`,
              [...place, rows, limit],
            ),
          )),
        )
      } finally {
        await connection.query('rollback')
      }
      if (drifts.length >= limit) return drifts.slice(0, limit)
      after = end!.upTo
    }
  }
  return drifts
}
