import type { Queryable } from '../../adapters/postgres/client.ts'
import { Pace } from './digest.ts'
import { type LedgerFinding, ledgerFinding } from './examine.ts'
import type { Seal } from './seal.ts'
import { NIL, type VerifyScope } from './sighting.ts'

// Beyond so many documents each verification reads its share of a week.
const READ_WHOLE = 1_000_000
const SHARES = 7
const MOST_NAMED = 100

/** A charge, payment or refund, and what was posted for it. */
interface Mismatch {
  tenantId: string
  document: string
  id: string
  accountId: string | null
  transactionId: string | null
  amountMinor: string
  currency: string
  /** Of the transaction; null where there is none. */
  kind: string | null
  /** What was posted to the document's account, per currency, e.g. `5000 AFN`; null for nothing. */
  posted: string | null
  /** The account that was posted to instead, where the amount is right. */
  elsewhere: string | null
  /** Another document that names the same transaction. */
  other: string | null
}

/**
 * Whether charges, payments and approved refunds say what was posted for them, each by a transaction of its own, and whether
 * a document accounts for each such transaction that was not reversed. A document and its transaction commit together, so
 * in one snapshot neither is without the other. Reads what came since the last seal, and of the rest what this pass has
 * its turn with; all of it with `full`, or while there is little. Reads no personal text; what was erased has its ids still.
 *
 * A document that differs is critical: somebody edited money. It freezes nothing, since the books add up.
 */
export async function examineDocuments(
  db: Queryable,
  { accountId, tenantId, since, full, quick }: VerifyScope,
  last: Pick<Seal, 'n' | 'iat'> | undefined,
): Promise<LedgerFinding[]> {
  const [size] = await db.query<{ n: number }>(
    `select sum(greatest(reltuples, 0))::float8 as n from pg_class
     where oid = any(array['billing.charge', 'billing.payment', 'billing.refund']::regclass[])`,
  )
  const narrow = accountId !== undefined || since !== undefined
  const whole = last === undefined || full === true || (!quick && size!.n < READ_WHOLE)
  // Something long under way when it was sealed committed later.
  const from = since ?? (last && !whole ? new Date((last.iat - 3_600) * 1_000) : undefined)
  const turn = narrow || whole || quick ? -1 : last.n % SHARES
  const scope: Scope = { tenantId, accountId, from, turn }
  const findings: LedgerFinding[] = []
  for (const document of ['charge', 'payment', 'refund'] as const) {
    for await (const found of mismatches(db, document, scope)) {
      findings.push(tellMismatch(found))
      if (findings.length >= MOST_NAMED) return findings
    }
  }
  for await (const found of unaccounted(db, scope)) {
    findings.push(tellUnaccounted(found))
    if (findings.length >= MOST_NAMED) break
  }
  return findings
}

interface Scope {
  tenantId: string | undefined
  accountId: string | undefined
  /** All that came since. */
  from: Date | undefined
  /** And of what is older this share; none with -1. */
  turn: number
}

type Document = 'charge' | 'payment' | 'refund'

/** How the rows of a page become rows `d`: what is due on which account by which transaction. */
const DUE: Record<Document, { columns: string; key: string; due: string }> = {
  charge: {
    columns: 'tenant_id, id, account_id, amount_minor, currency, transaction_id, captured_at as at',
    key: 'id',
    due: 'select *, amount_minor as due from page',
  },
  payment: {
    columns: 'tenant_id, id, account_id, amount_minor, currency, transaction_id, paid_at as at',
    key: 'tenant_id, id',
    due: 'select *, -amount_minor as due from page',
  },
  // Posted once when it is approved and once when it is paid, to accounts of the tenant's own.
  refund: {
    columns: 'tenant_id, id, amount_minor, currency, state, coalesce(decided_at, requested_at) as at',
    key: 'tenant_id, id',
    due: `select page.tenant_id, page.id, null::uuid as account_id, amount_minor, currency, t.id as transaction_id, at, amount_minor as due
      from page cross join lateral (values ('approved', state in ('approved', 'paid')), ('paid', state = 'paid')) step(name, made)
        left join billing.journal_transaction t
          on t.tenant_id = page.tenant_id and t.business_key = 'refund:' || page.id || ':' || step.name
      where step.made`,
  },
}

async function* mismatches(db: Queryable, document: Document, scope: Scope): AsyncGenerator<Mismatch> {
  const { columns, key, due } = DUE[document]
  const after =
    key === 'id' ? '$1::uuid is not null and id > $2::uuid' : '(tenant_id, id) > ($1::uuid, $2::uuid)'
  // An earlier document that names the same transaction; a refund's is found by the refund itself.
  const other =
    document === 'refund'
      ? 'select null::uuid as id'
      : `select o.id from billing.${document} o
         where o.tenant_id = d.tenant_id and o.transaction_id = d.transaction_id and o.id < d.id limit 1`
  yield* paged<Mismatch>(
    db,
    `with page as materialized (
       select ${columns} from billing.${document} where ${after} order by ${key} limit $7)
     select (select tenant_id || ' ' || id from page order by ${key.replaceAll(/(\w+)/g, '$1 desc')} limit 1) as last,
       (select json_agg(f) from (
         select d.tenant_id as "tenantId", '${document}' as document, d.id, d.account_id as "accountId",
           d.transaction_id as "transactionId", d.amount_minor::text as "amountMinor", d.currency, t.kind,
           posted.sums as posted, elsewhere.account_id as elsewhere, other.id as other
         from (${due}) d
           left join billing.journal_transaction t on t.tenant_id = d.tenant_id and t.id = d.transaction_id
           left join lateral (
             select string_agg(p.sum || ' ' || p.currency, ', ' order by p.currency) as sums, count(*) as n,
               count(*) = 1 and bool_and(p.sum = d.due and p.currency = d.currency) as fits
             from (select e.currency, sum(e.amount_minor) as sum from billing.entry e
                   where e.tenant_id = d.tenant_id and e.transaction_id = d.transaction_id
                     and (e.account_id = d.account_id or d.account_id is null and e.amount_minor > 0)
                   group by e.currency) p) posted on true
           left join lateral (
             select e.account_id from billing.entry e
             where posted.n = 0 and e.tenant_id = d.tenant_id and e.transaction_id = d.transaction_id
               and (e.amount_minor, e.currency) = (d.due, d.currency) limit 1) elsewhere on true
           left join lateral (${other}) other on true
         where ($3::uuid is null or d.tenant_id = $3) and ($4::uuid is null or d.account_id = $4)
           and ($5::timestamptz is null or d.at >= $5 or ${chosen('d.id')})
           and (d.amount_minor <> 0 or d.transaction_id is not null)
           and (t.kind is distinct from '${document}' or posted.fits is not true or other.id is not null)
         order by d.tenant_id, d.id limit ${MOST_NAMED}) f) as found`,
    scope,
  )
}

/** What is read again is told from its id, which is random in its last byte. */
const chosen = (id: string) => `get_byte(uuid_send(${id}), 15) % ${SHARES} = $6`

/** A transaction that nothing accounts for, with its entry on a patient's account, or else on the one with the fewest. */
interface Unaccounted {
  tenantId: string
  id: string
  kind: string
  businessKey: string
  accountId: string | null
  seq: string | null
  amountMinor: string | null
  currency: string | null
}

async function* unaccounted(db: Queryable, scope: Scope): AsyncGenerator<Unaccounted> {
  yield* paged<Unaccounted>(
    db,
    `with page as materialized (
       select tenant_id, id, kind, business_key, posted_at as at from billing.journal_transaction
       where (tenant_id, id) > ($1::uuid, $2::uuid) order by tenant_id, id limit $7)
     select (select tenant_id || ' ' || id from page order by tenant_id desc, id desc limit 1) as last,
       (select json_agg(f) from (
         select t.tenant_id as "tenantId", t.id, t.kind, t.business_key as "businessKey",
           own.account_id as "accountId", own.seq::text as seq, own.amount_minor::text as "amountMinor", own.currency
         from page t left join lateral (
           select e.account_id, e.seq, e.amount_minor, e.currency
           from billing.entry e
             join billing.account a on (a.tenant_id, a.id) = (e.tenant_id, e.account_id)
             join billing.balance b on (b.tenant_id, b.account_id) = (e.tenant_id, e.account_id)
           where e.tenant_id = t.tenant_id and e.transaction_id = t.id
           order by e.account_id is distinct from $4, a.code not like 'receivable%', b.seq, e.account_id limit 1) own on true
         where t.kind in ('charge', 'payment', 'refund')
           and ($3::uuid is null or t.tenant_id = $3) and ($5::timestamptz is null or t.at >= $5 or ${chosen('t.id')})
           and ($4::uuid is null or own.account_id = $4)
           and not exists (select from billing.charge c
             where t.kind = 'charge' and c.tenant_id = t.tenant_id and c.transaction_id = t.id)
           and not exists (select from billing.payment p
             where t.kind = 'payment' and p.tenant_id = t.tenant_id and p.transaction_id = t.id)
           and not exists (select from billing.refund r
             where t.kind = 'refund' and r.tenant_id = t.tenant_id and r.state in ('approved', 'paid')
               and r.id::text = split_part(t.business_key, ':', 2)
               and t.business_key in ('refund:' || r.id || ':approved', 'refund:' || r.id || ':' || r.state))
           -- What was reversed is made up for.
           and not exists (select from billing.journal_transaction back
             where back.tenant_id = t.tenant_id and back.reverses = t.id)
         order by t.tenant_id, t.id limit ${MOST_NAMED}) f) as found`,
    scope,
  )
}

/** Runs a statement page by page: `$1` and `$2` are where to go on from, `$3` to `$6` the scope, `$7` how many rows. */
async function* paged<Found>(
  db: Queryable,
  sql: string,
  { tenantId, accountId, from, turn }: Scope,
): AsyncGenerator<Found> {
  const pace = new Pace({ rowsAtFirst: 2_000, mostRows: 20_000 })
  let after = [NIL, NIL]
  for (;;) {
    const { rows } = pace
    const [page] = await pace.time(rows, () =>
      db.query<{ last: string | null; found: Found[] | null }>(sql, [
        ...after,
        tenantId,
        accountId,
        from,
        turn,
        rows,
      ]),
    )
    yield* page!.found ?? []
    if (page!.last === null) return
    after = page!.last.split(' ')
  }
}

function tellMismatch(found: Mismatch): LedgerFinding {
  const {
    tenantId,
    document,
    id,
    accountId,
    transactionId,
    amountMinor,
    currency,
    kind,
    posted,
    elsewhere,
    other,
  } = found
  const due = `${amountMinor} ${currency}`
  const message =
    transactionId === null
      ? `it is of ${due}, and nothing was posted for it`
      : kind === null
        ? `it is of ${due}, and its transaction ${transactionId} is not there`
        : kind !== document
          ? `its transaction ${transactionId} is a ${kind}`
          : other !== null
            ? `its transaction ${transactionId} is that of ${document} ${other}`
            : elsewhere !== null
              ? `transaction ${transactionId} was posted to account ${elsewhere}, not to its own ${accountId}`
              : `it is of ${due}, and transaction ${transactionId} posted ${posted ?? 'nothing'} to its account`
  return ledgerFinding('ledger/document', {
    // What was never posted is missing money; what differs was edited.
    severity: transactionId === null || other !== null ? 'error' : 'critical',
    object: `${document} ${id}`,
    message,
    evidence: { tenantId, accountId, transactionId, amountMinor, currency, posted },
    fix: accountId === null ? null : `tabib ledger verify --account ${accountId}`,
  })
}

function tellUnaccounted(found: Unaccounted): LedgerFinding {
  const { tenantId, id, kind, businessKey, accountId, seq, amountMinor, currency } = found
  return ledgerFinding('ledger/document', {
    // By its key tabib posted it, together with a document.
    severity: businessKey.startsWith(`${kind}:`) ? 'error' : 'warning',
    object: `transaction ${id}`,
    message: `no ${kind} accounts for it: entry ${seq} of account ${accountId}, ${amountMinor} ${currency}`,
    evidence: { tenantId, accountId, seq, transactionId: id, amountMinor, currency, businessKey },
    fix: accountId === null ? null : `tabib ledger reconcile ${accountId} --duplicates --dry-run`,
  })
}
