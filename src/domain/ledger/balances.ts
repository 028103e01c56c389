import type { Database } from '../../adapters/postgres/client.ts'
import { Pace } from './digest.ts'

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

const NIL = '00000000-0000-0000-0000-000000000000'

/**
 * Accounts whose balance is not the sum of their entries, or whose sequence is not their number; each statement sees one
 * snapshot, so posting meanwhile is no drift. Postgres sums, in the order of an index that holds all it needs; what
 * comes here is what differs. The quick look at a whole ledger: rewritten history is for `verifyLedger`.
 */
export async function driftedAccounts(
  { db }: { db: Database },
  { limit = 1_000, signal }: { limit?: number; signal?: AbortSignal } = {},
): Promise<Drift[]> {
  await using connection = await db.connection()
  const drifts: Drift[] = []
  let after = [NIL, NIL]
  const pace = new Pace({ rowsAtFirst: 5_000, mostRows: 50_000 })
  for (;;) {
    signal?.throwIfAborted()
    const [end] = await connection.query<{ upTo: string[] | null }>(
      `select (select array[tenant_id::text, account_id::text] from billing.balance
               where (tenant_id, account_id) > ($1::uuid, $2::uuid) order by tenant_id, account_id
               offset $3::int - 1 limit 1) as "upTo"`,
      [...after, pace.rows],
    )
    const upTo = end!.upTo ?? [LAST, LAST]
    await connection.query('begin')
    try {
      // Left alone the planner hashes the groups, at a fifth of the rate.
      await connection.query(
        `select set_config(name, 'off', true) from unnest(array['enable_hashagg', 'enable_hashjoin', 'enable_seqscan',
           'enable_bitmapscan', 'enable_nestloop', 'jit']) name`,
      )
      drifts.push(
        ...(await pace.time(pace.rows, () =>
          connection.query<Drift>(
            `select b.tenant_id as "tenantId", b.account_id as "accountId", b.balance_minor as "balanceMinor",
                  coalesce(e.sum, 0) as "entriesMinor", b.seq, coalesce(e.count, 0) as entries
           from billing.balance b left join (
             select tenant_id, account_id, sum(amount_minor) as sum, count(*) as count, max(seq) as last
             from billing.entry
             where (tenant_id, account_id) > ($1::uuid, $2::uuid) and (tenant_id, account_id) <= ($3::uuid, $4::uuid)
             group by tenant_id, account_id
           ) e on e.tenant_id = b.tenant_id and e.account_id = b.account_id
           where (b.tenant_id, b.account_id) > ($1::uuid, $2::uuid) and (b.tenant_id, b.account_id) <= ($3::uuid, $4::uuid)
             and (b.balance_minor <> coalesce(e.sum, 0) or b.seq <> coalesce(e.count, 0) or b.seq <> coalesce(e.last, 0))
           order by b.tenant_id, b.account_id limit $5`,
            [...after, ...upTo, limit],
          ),
        )),
      )
    } finally {
      await connection.query('rollback')
    }
    if (end!.upTo === null || drifts.length >= limit) return drifts.slice(0, limit)
    after = upTo
  }
}

const LAST = 'ffffffff-ffff-ffff-ffff-ffffffffffff'
