import type { Database } from '../adapters/postgres/client.ts'

export interface History {
  tenantId: string
  patients: number
  /** Postings on each patient's account, spread over the time. */
  lines: number
  /** Between when; may be long past, which no posting through `billing.post` could be. */
  from: Date
  to: Date
}

const NAMES = [
  ['fa-AF', 'فرشته احمدی'],
  ['ps-AF', 'سپوږمۍ ستانکزی'],
  ['fa-AF', 'محمد کریم هروی'],
  ['ar', 'ليلى عبد الله'],
  ['ps-AF', 'توریالی څاڅی'],
  ['en', 'Nadia Rahimi'],
]
const CODES = ['CONSULT-REMOTE', 'LAB-CBC', 'RX-2231/7', 'ECG', 'LAB-HBA1C']

/**
 * Gives a tenant patients whose accounts have a past: charges and every fifth time a payment, in a ledger that verifies. The
 * schemas' owner writes it, since nobody else may backdate. Returns the accounts' ids in the order of the run.
 */
export async function plantHistory(
  { owner, service }: { owner: Database; service: Database },
  { tenantId, patients, lines, from, to }: History,
): Promise<string[]> {
  const accounts = await service.transaction(async (tx) => {
    await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
    const people = await tx.query<{ id: string }>(
      `insert into virtual_care.patient (id, tenant_id, name, language, phone)
       select gen_random_uuid(), $1, who.name, who.language, '+9370' || lpad(n::text, 7, '0')
       from generate_series(1, $2::int) n
         join unnest($3::text[], $4::text[]) with ordinality as who(language, name, at)
           on who.at = 1 + n % cardinality($3::text[])
       returning id`,
      [tenantId, patients, NAMES.map(([language]) => language), NAMES.map(([, name]) => name)],
    )
    const opened = await tx.query<{ id: string }>(
      `insert into billing.account (tenant_id, code, currency)
       select $1, 'receivable:' || id, 'AFN' from unnest($2::uuid[]) id returning id`,
      [tenantId, people.map(({ id }) => id)],
    )
    await tx.query(
      `insert into billing.account (tenant_id, code, currency) values ($1, 'revenue', 'AFN'), ($1, 'cash', 'AFN')
       on conflict do nothing`,
      [tenantId],
    )
    return opened.map(({ id }) => id).sort()
  })
  await owner.transaction(async (tx) => {
    await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
    await tx.query(
      `with posting as materialized (
         select gen_random_uuid() as id, account_id, p, j, case when j % 5 = 0 then 'payment' else 'charge' end as kind,
           case when j % 5 = 0 then -1 else 1 end * (10000 + (p * 7 + j * 13) % 50 * 1005)::bigint as amount,
           $4::timestamptz + ($5::timestamptz - $4::timestamptz) * ((j - 1 + (p % 97) / 100.0) / $3::int) as at
         from unnest($2::uuid[]) with ordinality as a(account_id, p), generate_series(1, $3::int) j
       ), entry as (
         select account_id, id, amount, at from posting
         union all
         select (select id from billing.account where tenant_id = $1 and code = case kind when 'charge' then 'revenue' else 'cash' end),
           id, -amount, at from posting
       ), placed as materialized (
         select *, row_number() over w as seq, sum(amount) over w as balance from entry
         window w as (partition by account_id order by at, id)
       ), balances as (
         insert into billing.balance (tenant_id, account_id, balance_minor, seq)
         select $1, account_id, sum(amount), max(seq) from placed group by account_id
       ), transactions as (
         insert into billing.journal_transaction (tenant_id, id, kind, business_key, posted_at)
         select $1, id, kind, 'history:' || id, at from posting
       )
       insert into billing.entry (tenant_id, account_id, seq, transaction_id, amount_minor, currency, balance_minor, posted_at)
       select $1, account_id, seq, id, amount, 'AFN', balance, at from placed`,
      [tenantId, accounts, lines, from, to],
    )
  })
  await service.transaction(async (tx) => {
    await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
    await tx.query(
      `insert into billing.charge
         (tenant_id, patient_id, session_id, account_id, code, amount_minor, currency, transaction_id, captured_at)
       select $1, substring(a.code from 12)::uuid, gen_random_uuid(), a.id, ($2::text[])[1 + e.seq % cardinality($2::text[])],
         e.amount_minor, e.currency, t.id, t.posted_at
       from billing.journal_transaction t join billing.entry e on e.transaction_id = t.id
         join billing.account a on a.id = e.account_id and a.code like 'receivable:%'
       where t.tenant_id = $1 and t.kind = 'charge' and t.business_key like 'history:%'`,
      [tenantId, CODES],
    )
    await tx.query(
      `insert into billing.payment
         (tenant_id, account_id, amount_minor, currency, method, reference, idempotency_key, fingerprint, transaction_id, paid_at)
       select $1, a.id, -e.amount_minor, e.currency, case when e.seq % 2 = 0 then 'cash' else 'hesabpay' end,
         'R-' || lpad(e.seq::text, 5, '0'), t.business_key, '', t.id, t.posted_at
       from billing.journal_transaction t join billing.entry e on e.transaction_id = t.id
         join billing.account a on a.id = e.account_id and a.code like 'receivable:%'
       where t.tenant_id = $1 and t.kind = 'payment' and t.business_key like 'history:%'`,
      [tenantId],
    )
  })
  return accounts
}
