import type { Queryable } from '../../adapters/postgres/client.ts'

/**
 * What shows a duplicate. `event`: one CloudEvents id charged one code twice. `session`: two events charged one session's
 * code. `posting`: a transaction of the ledger that no charge or payment accounts for, and whose twin one does or came
 * just before; or one business key twice. `fingerprint`: the same patient, code and amount again in one session, or within ten
 * minutes; or the same paid again to one account within a day, under another key.
 */
export const BASES = ['event', 'session', 'posting', 'fingerprint'] as const

/** A charge or a posting that repeats an earlier one; what was reversed is none any more. */
export interface Duplicate {
  basis: (typeof BASES)[number]
  /** Two that look alike may both be right, and somebody has to look; these cannot. */
  certain: boolean
  tenantId: string
  tenant: string
  /** The one to be reversed; null for a posting without a charge. */
  chargeId: string | null
  /** Its posting; null for a charge that was never posted by itself. */
  transactionId: string | null
  originalChargeId: string | null
  originalTransactionId: string | null
  /** Whose debt it changed: the patient's receivable, or of a posting the account that has the fewest entries. */
  accountId: string | null
  amountMinor: bigint
  currency: string
  at: Date
}

export interface DuplicateScope {
  tenantId?: string | undefined
  accountId?: string | undefined
  /** Only those that came since; what they repeat may be older. */
  since?: Date | undefined
}

/** All duplicates in a scope, the certain ones first. Reads ids, codes and amounts; never personal data. */
export async function findDuplicates(
  { db }: { db: Queryable },
  scope: DuplicateScope = {},
): Promise<Duplicate[]> {
  const found = await duplicateCharges({ db }, scope)
  for (const more of [await duplicatePostings(db, scope), await duplicatePayments(db, scope)]) {
    const known = new Set(found.map(({ transactionId }) => transactionId))
    found.push(...more.filter(({ transactionId }) => !known.has(transactionId)))
  }
  return found.sort((a, b) => Number(b.certain) - Number(a.certain))
}

/** What was reversed counts for nothing. */
const live = (row: string, transaction = `${row}.transaction_id`) =>
  `not exists (select from billing.journal_transaction r
     where r.tenant_id = ${row}.tenant_id and r.reverses = ${transaction})`

const SAME_PRICE = '(first.amount_minor, first.currency) = (late.amount_minor, late.currency)'

/**
 * Charges that repeat an earlier one. Two consultations a day are two sessions, and no repetition; what was charged
 * without a session is compared within ten minutes. With `certain` only those that cannot be right, which is quick.
 */
export function duplicateCharges(
  { db }: { db: Queryable },
  { tenantId, accountId, since }: DuplicateScope = {},
  { certain = false }: { certain?: boolean } = {},
): Promise<Duplicate[]> {
  return db.query<Duplicate>(
    `select first.basis, first.basis <> 'fingerprint' as certain, late.tenant_id as "tenantId", t.slug as tenant,
       late.id as "chargeId", own.id as "transactionId", first.id as "originalChargeId",
       first.transaction_id as "originalTransactionId", account.id as "accountId",
       late.amount_minor as "amountMinor", late.currency, late.captured_at as at
     from billing.charge late
     join tabib.tenant t on t.id = late.tenant_id
     left join billing.account on account.tenant_id = late.tenant_id and account.code = 'receivable:' || late.patient_id
     -- A copy that names the original's posting has none of its own.
     left join lateral (
       select late.transaction_id as id where not exists (
         select from billing.charge other
         where other.tenant_id = late.tenant_id and other.transaction_id = late.transaction_id and other.id <> late.id)
     ) own on true
     cross join lateral (
       select first.id, first.transaction_id, shown.basis
       from billing.charge first cross join lateral (
         select case
           when first.event_id = late.event_id then 'event'
           when first.session_id = late.session_id and first.event_id <> late.event_id then 'session'
           else 'fingerprint' end as basis) shown
       where first.tenant_id = late.tenant_id and first.code = late.code
         and (first.captured_at, first.id) < (late.captured_at, late.id)
         and first.amount_minor > 0 and ${live('first')}
         and (first.event_id = late.event_id
           or first.patient_id = late.patient_id and first.session_id = late.session_id
             and (first.event_id <> late.event_id or ${SAME_PRICE})
           or first.patient_id = late.patient_id and (first.session_id is null or late.session_id is null)
             and ${SAME_PRICE} and first.captured_at > late.captured_at - interval '10 minutes')
       order by array_position($5, shown.basis), first.captured_at, first.id limit 1
     ) first
     where late.amount_minor > 0 and ${live('late', 'own.id')}
       -- What was paid back is mended.
       and not exists (
         select from billing.refund
         where refund.tenant_id = late.tenant_id and refund.charge_id = late.id and refund.state in ('approved', 'paid'))
       and ($1::uuid is null or late.tenant_id = $1)
       and ($2::uuid is null or account.id = $2 or exists (
         select from billing.entry where entry.tenant_id = late.tenant_id
           and entry.transaction_id = late.transaction_id and entry.account_id = $2))
       and ($3::timestamptz is null or late.captured_at >= $3)
       and (not $4 or first.basis <> 'fingerprint' and ((late.tenant_id, late.event_id) in (
         select tenant_id, event_id from billing.charge where event_id is not null group by 1, 2 having count(*) > 1)
         or (late.tenant_id, late.session_id) in (
         select tenant_id, session_id from billing.charge where session_id is not null group by 1, 2 having count(*) > 1)))
     order by late.tenant_id, late.captured_at, late.id`,
    [tenantId, accountId, since, certain, BASES],
  )
}

/**
 * Postings of a charge or a payment that repeat another one: the business key is that of an earlier one, or nothing
 * accounts for it while a charge or payment accounts for its twin. Only within ten minutes is that certain. Of two within
 * ten minutes that nothing accounts for, the later one may be a duplicate.
 */
function duplicatePostings(
  db: Queryable,
  { tenantId, accountId, since }: DuplicateScope,
): Promise<Duplicate[]> {
  const accounted = (row: string) =>
    `(exists (select from billing.charge c where c.tenant_id = ${row}.tenant_id and c.transaction_id = ${row}.id)
      or exists (select from billing.payment p where p.tenant_id = ${row}.tenant_id and p.transaction_id = ${row}.id))`
  const entries = (row: string) =>
    `(select string_agg(concat_ws(' ', e.account_id, e.amount_minor, e.currency), ',' order by e.account_id, e.amount_minor)
      from billing.entry e where e.tenant_id = ${row}.tenant_id and e.transaction_id = ${row}.id)`
  return db.query<Duplicate>(
    `select 'posting' as basis, late.business_key = twin.business_key or ${accounted('twin')}
         and late.posted_at between twin.posted_at - interval '10 minutes' and twin.posted_at + interval '10 minutes' as certain,
       late.tenant_id as "tenantId", t.slug as tenant, null as "chargeId", late.id as "transactionId",
       (select c.id from billing.charge c where c.tenant_id = twin.tenant_id and c.transaction_id = twin.id limit 1)
         as "originalChargeId",
       twin.id as "originalTransactionId", debt.account_id as "accountId", abs(debt.amount_minor) as "amountMinor",
       debt.currency, late.posted_at as at
     from (
       -- Those few first, since to look for a twin costs more.
       select * from billing.journal_transaction late
       where kind in ('charge', 'payment') and ($1::uuid is null or tenant_id = $1)
         and ($3::timestamptz is null or posted_at >= $3)
         and (not ${accounted('late')} or exists (
           select from billing.journal_transaction same
           where same.tenant_id = late.tenant_id and same.business_key = late.business_key and same.id <> late.id))
       offset 0
     ) late
     join tabib.tenant t on t.id = late.tenant_id
     -- Of its accounts the one with the fewest entries: a patient's, where the other is revenue or cash.
     cross join lateral (
       select e.account_id, e.amount_minor, e.currency
       from billing.entry e join billing.balance b on (b.tenant_id, b.account_id) = (e.tenant_id, e.account_id)
       where e.tenant_id = late.tenant_id and e.transaction_id = late.id
       order by b.seq, e.account_id limit 1
     ) debt
     cross join lateral (
       select o.* from billing.entry e join billing.journal_transaction o on (o.tenant_id, o.id) = (e.tenant_id, e.transaction_id)
       where e.tenant_id = late.tenant_id and e.account_id = debt.account_id and e.amount_minor = debt.amount_minor
         and o.id <> late.id and o.kind = late.kind and ${live('o', 'o.id')} and ${entries('o')} = ${entries('late')}
         and (o.business_key = late.business_key and (o.posted_at, o.id) < (late.posted_at, late.id)
           or ${accounted('o')} and not ${accounted('late')}
           or not ${accounted('o')} and not ${accounted('late')} and (o.posted_at, o.id) < (late.posted_at, late.id)
             and o.posted_at > late.posted_at - interval '10 minutes')
       order by abs(extract(epoch from o.posted_at - late.posted_at)), o.id limit 1
     ) twin
     where ${live('late', 'late.id')} and ($2::uuid is null or exists (
       select from billing.entry e where e.tenant_id = late.tenant_id and e.transaction_id = late.id and e.account_id = $2))
     order by late.tenant_id, late.posted_at, late.id`,
    [tenantId, accountId, since],
  )
}

/**
 * Payments that repeat the one before of the same account, amount, currency, method and reference within 24 hours, each with
 * a posting of its own: a client that made a new key for a retry, or somebody did pay twice. What billing/FM-09 tells of.
 */
function duplicatePayments(
  db: Queryable,
  { tenantId, accountId, since }: DuplicateScope,
): Promise<Duplicate[]> {
  return db.query<Duplicate>(
    `select 'fingerprint' as basis, false as certain, late.tenant_id as "tenantId", t.slug as tenant, null as "chargeId",
       late.transaction_id as "transactionId", null as "originalChargeId", late.twin as "originalTransactionId",
       late.account_id as "accountId", late.amount_minor as "amountMinor", late.currency, late.paid_at as at
     from (
       select p.*, lag(p.transaction_id) over same as twin, lag(p.paid_at) over same as twin_paid_at
       from billing.payment p
       where ($1::uuid is null or p.tenant_id = $1) and ($2::uuid is null or p.account_id = $2) and ${live('p')}
       window same as (
         partition by p.tenant_id, p.account_id, p.amount_minor, p.currency, p.method, coalesce(p.reference, '')
         order by p.paid_at, p.id)
     ) late
     join tabib.tenant t on t.id = late.tenant_id
     where late.twin <> late.transaction_id and late.twin_paid_at > late.paid_at - interval '24 hours'
       and ($3::timestamptz is null or late.paid_at >= $3)
     order by late.tenant_id, late.paid_at, late.id`,
    [tenantId, accountId, since],
  )
}
