import type { Queryable } from '../../adapters/postgres/client.ts'

export interface RepeatedPayments {
  /** Payments of the last 48 hours beyond the first for one key, or on one transaction of the ledger: the store was passed by. */
  sameKey: number
  /** Payments of the last 24 hours that repeat another's request under a new key, and were not reversed. */
  equal: number
  /** The accounts of those. */
  accounts: string[]
}

/**
 * Payments that were posted twice, or look it: the same account, amount, currency, method and reference within 24 hours.
 * Reads no personal text.
 */
export async function repeatedPayments({ db }: { db: Queryable }): Promise<RepeatedPayments> {
  const [row] = await db.query<RepeatedPayments>(
    `with recent as (
       select tenant_id, id, account_id, amount_minor, currency, method, coalesce(reference, '') as reference,
         idempotency_key, transaction_id, paid_at from billing.payment
       where paid_at > now() - interval '48 hours'
     ), equal as (
       select distinct p.id, p.account_id from recent p
         join recent q using (tenant_id, account_id, amount_minor, currency, method, reference)
       where (q.paid_at, q.id) < (p.paid_at, p.id) and q.paid_at > p.paid_at - interval '24 hours'
         and p.paid_at > now() - interval '24 hours'
         and not exists (
           select from billing.journal_transaction r
           where r.tenant_id = p.tenant_id and r.reverses in (p.transaction_id, q.transaction_id))
     )
     select (select count(*)::int from equal) as equal,
       array(select distinct account_id::text from equal order by 1 limit 20) as accounts,
       (select count(*) - least(count(distinct (tenant_id, idempotency_key)), count(distinct (tenant_id, transaction_id)))
        from recent)::int as "sameKey"`,
  )
  return row!
}
