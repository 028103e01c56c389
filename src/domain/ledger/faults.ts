import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { judgeApproval } from '../approval/accept.ts'
import type { Account } from './account.ts'

/** What an account by itself is held to. */
type Check = 'balance' | 'balance-sequence' | 'sequence' | 'chain' | 'currency' | 'zero-sum' | 'transaction'

/** One place where an account is not what was posted to it. The same fault is the same in every member each time it is found. */
export interface Fault<C extends string = Check> {
  check: C
  /** The entry; null where the fault is in the balance. */
  seq: bigint | null
  transactionId: string | null
  /** Amounts in minor units, sequence numbers, currencies, digests. */
  expected: string
  seen: string
}

/** A fault with what it means. */
export type ToldFault = Fault<string> & { says: string }

/**
 * Everything that is wrong in one account, entry by entry, less what was explained and made up for. Reads every entry of
 * the account, so it is for one account, not for all.
 */
export async function accountFaults(
  db: Queryable,
  { tenantId, id }: Pick<Account, 'tenantId' | 'id'>,
): Promise<Fault[]> {
  const faults = await db.query<Fault>(
    `with own as materialized (
       select seq, transaction_id, amount_minor, currency, balance_minor, xid,
         lag(seq, 1, 0::bigint) over w as before, lag(balance_minor, 1, 0::bigint) over w as balance_before
       from billing.entry where tenant_id = $1 and account_id = $2 window w as (order by seq)
     ), last as (
       select coalesce(max(seq), 0) as seq, coalesce(sum(amount_minor), 0) as total from own
     ), balance as (
       select coalesce(max(balance_minor), 0) as balance_minor, coalesce(max(seq), 0) as seq
       from billing.balance where tenant_id = $1 and account_id = $2
     ), fault as (
       select 'balance' as check_name, null::bigint as seq, null::uuid as transaction_id, total::text as expected,
         balance_minor::text as seen
       from balance, last where balance_minor <> total
       union all
       select 'balance-sequence', null, null, last.seq::text, balance.seq::text from balance, last where balance.seq <> last.seq
       union all
       select 'sequence', seq, transaction_id, (before + 1)::text, seq::text from own where seq <> before + 1
       union all
       select 'chain', seq, transaction_id, (balance_before::numeric + amount_minor)::text, balance_minor::text
       from own where balance_minor <> balance_before::numeric + amount_minor
       union all
       select 'currency', own.seq, own.transaction_id, account.currency, own.currency
       from own join billing.account on account.tenant_id = $1 and account.id = $2 where own.currency <> account.currency
       union all
       select 'transaction', seq, own.transaction_id, own.xid::text, coalesce(t.xid::text, 'none')
       from own left join billing.journal_transaction t on t.tenant_id = $1 and t.id = own.transaction_id
       where t.xid is distinct from own.xid
       union all
       select 'zero-sum', max(own.seq), own.transaction_id, '0', legs.total::text
       from own join lateral (
         select sum(e.amount_minor) as total from billing.entry e
         where e.tenant_id = $1 and e.transaction_id = own.transaction_id group by e.currency) legs on legs.total <> 0
       group by own.transaction_id, legs.total
     )
     select check_name as "check", seq, transaction_id as "transactionId", expected, seen
     from fault order by seq nulls last, check_name`,
    [tenantId, id],
  )
  return unmended(db, { tenantId, id }, faults)
}

/** Rows `m` of what was explained, as a `from` item, of the transactions at `$n` alone: see `approvedMenders`. */
export const mendedBy = (n: number) =>
  `(select * from billing.mended_fault where transaction_id = any($${n}::uuid[])) m`

/**
 * The adjusting transactions that two people stand behind: the trail has the plan that each applied, with an approval of
 * it that another registered operator than the one who acted has signed, and was good then. What others say was mended
 * hides nothing.
 */
export async function approvedMenders(db: Queryable): Promise<string[]> {
  const menders = await db.query<{ id: string; planHash: string }>(
    `select distinct t.id, substr(t.business_key, 11) as "planHash"
     from billing.mended_fault m join billing.journal_transaction t on (t.tenant_id, t.id) = (m.tenant_id, m.transaction_id)
     where t.business_key like 'reconcile:%'`,
  )
  if (menders.length === 0) return []
  const consents = await db.query<{
    planHash: string
    approval: string
    actor: string
    context: string
    atS: number
  }>(
    `select distinct record->>'planHash' as "planHash", record->>'approval' as approval, record->>'actor' as actor,
       record->>'context' as context, extract(epoch from ts)::float8 as "atS"
     from tabib.audit where record->>'planHash' = any($1) and record->>'phase' = 'before' and record ? 'approval'`,
    [menders.map(({ planHash }) => planHash)],
  )
  const approved = new Set<string>()
  for (const { atS, ...consent } of consents) {
    if (await holds(db, consent, atS)) approved.add(consent.planHash)
  }
  return menders.filter(({ planHash }) => approved.has(planHash)).map(({ id }) => id)
}

async function holds(
  db: Queryable,
  consent: { approval: string; planHash: string; actor: string; context: string },
  atS: number,
): Promise<boolean> {
  try {
    await judgeApproval({ db }, consent, atS)
    return true
  } catch (error) {
    if (error instanceof TabibError && error.code === 'APPROVAL_INVALID') return false
    throw error
  }
}

/** Those faults that no reconciliation has explained as they are seen now, in their order. */
export async function unmended<F extends Fault<string>>(
  db: Queryable,
  { tenantId, id }: Pick<Account, 'tenantId' | 'id'>,
  faults: readonly F[],
): Promise<F[]> {
  if (faults.length === 0) return []
  const open = await db.query<{ n: number }>(
    `select f.n from unnest($3::text[], $4::bigint[], $5::uuid[], $6::text[], $7::text[]) with ordinality
       as f(check_name, seq, transaction_id, expected, seen, n)
     where not exists (
       select from ${mendedBy(8)}
       where m.tenant_id = $1 and m.check_name = f.check_name
         and (m.of_transaction, m.expected, m.seen) is not distinct from (f.transaction_id, f.expected, f.seen)
         -- A transaction's sum is of all its accounts; every other fault is one account's.
         and (m.check_name = 'zero-sum' or (m.account_id = $2 and m.seq is not distinct from f.seq)))`,
    [
      ...[tenantId, id],
      faults.map(({ check }) => check),
      faults.map(({ seq }) => seq),
      faults.map(({ transactionId }) => transactionId),
      faults.map(({ expected }) => expected),
      faults.map(({ seen }) => seen),
      await approvedMenders(db),
    ],
  )
  const left = new Set(open.map(({ n }) => Number(n)))
  return faults.filter((_, i) => left.has(i + 1))
}
