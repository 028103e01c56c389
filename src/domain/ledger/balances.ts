import { randomInt } from 'node:crypto'
import type { Connection, Database } from '../../adapters/postgres/client.ts'
import { Pace } from './digest.ts'
import { examineAccount, type LedgerFinding, type Names } from './examine.ts'
import { BEHIND_ALL, NIL } from './sighting.ts'

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
  const seed = randomInt(2 ** 47)
  const pace = new Pace({ rowsAtFirst: 4_000, mostRows: 20_000 })
  const tenants = await connection.query<{ id: string }>('select id from tabib.tenant order by id')
  for (const { id } of tenants) {
    for (let after = NIL; after !== BEHIND_ALL; ) {
      signal?.throwIfAborted()
      const { rows } = pace
      await connection.query('begin isolation level repeatable read, read only')
      try {
        // Left alone the planner hashes the groups, at a fifth of the rate.
        await connection.query(
          `select set_config(name, 'off', true) from unnest(array['enable_hashagg', 'enable_hashjoin', 'enable_seqscan',
           'enable_bitmapscan', 'enable_nestloop', 'jit']) name`,
        )
        const place = { tenantId: id, after, seed }
        const sums = await pace.time(rows, () => hashOfSums(connection, place, rows))
        if (sums.hash !== (await hashOfBalances(connection, place, sums.upTo)))
          drifts.push(...(await driftedBetween(connection, [id, after, sums.upTo], limit)))
        after = sums.upTo
      } finally {
        await connection.query('rollback')
      }
      if (drifts.length >= limit) return drifts.slice(0, limit)
    }
  }
  return drifts
}

interface Place {
  tenantId: string
  after: string
  /** Nobody knows it before, so what does not agree has the same hash by chance alone. */
  seed: number
}

const hashOf = (sum: string, count: string, last: string) =>
  `coalesce(sum(hash_numeric_extended(${sum}, uuid_hash_extended(account_id, $3::bigint # ${count} # (${last} << 32)))), 0) as hash`
const SUMS =
  'select account_id, sum(amount_minor) as sum, count(*) as count, max(seq) as last from billing.entry'

/**
 * The sum of the hashes of accounts with what their entries sum to, of so many accounts at most, and where they end. To hold
 * each against its balance in the same statement takes up to half as long again.
 */
async function hashOfSums(
  connection: Connection,
  { tenantId, after, seed }: Place,
  rows: number,
): Promise<{ hash: string; upTo: string }> {
  const [row] = await connection.query<{ hash: string; accounts: number; last: string | null }>(
    `select ${hashOf('sum', 'count', 'last')}, count(*)::int as accounts, (array_agg(account_id))[count(*)] as last
     from (${SUMS} where tenant_id = $1 and account_id > $2 group by account_id order by account_id limit $4) e`,
    [tenantId, after, seed, rows],
  )
  const { hash, accounts, last } = row!
  return { hash, upTo: accounts === rows && last !== null ? last : BEHIND_ALL }
}

/** The same of accounts with their balances, but for those that nothing was ever posted to. */
async function hashOfBalances(
  connection: Connection,
  { tenantId, after, seed }: Place,
  upTo: string,
): Promise<string> {
  const [row] = await connection.query<{ hash: string }>(
    `select ${hashOf('balance_minor::numeric', 'seq', 'seq')} from billing.balance
     where tenant_id = $1 and account_id > $2 and account_id <= $4 and (seq <> 0 or balance_minor <> 0)`,
    [tenantId, after, seed, upTo],
  )
  return row!.hash
}

function driftedBetween(connection: Connection, range: string[], limit: number): Promise<Drift[]> {
  const within = 'tenant_id = $1 and account_id > $2 and account_id <= $3'
  return connection.query<Drift>(
    `select b.tenant_id as "tenantId", b.account_id as "accountId", b.balance_minor as "balanceMinor",
        coalesce(e.sum, 0) as "entriesMinor", b.seq, coalesce(e.count, 0) as entries
     from (select * from billing.balance where ${within}) b
       left join (${SUMS} where ${within} group by account_id) e on e.account_id = b.account_id
     where b.balance_minor <> coalesce(e.sum, 0) or b.seq <> coalesce(e.count, 0) or b.seq <> coalesce(e.last, 0)
     order by b.account_id limit $4`,
    [...range, limit],
  )
}
