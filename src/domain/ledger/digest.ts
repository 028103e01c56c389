import { createHash } from 'node:crypto'
import type { Queryable } from '../../adapters/postgres/client.ts'
import { parseSnapshot } from '../outbox/window.ts'
import type { SealedAccount } from './seal.ts'

/** What an entry's part of a digest is; its account and sequence follow from its place. Of the row `e`. */
export const ENTRY_BYTES =
  'int8send(e.amount_minor) || int8send(e.balance_minor) || timestamptz_send(e.posted_at) || uuid_send(e.transaction_id)'
/** The digest of rows `t`, in their order. What is text goes by itself: to make one string of each row costs twice as much. */
export const TRANSACTIONS_DIGEST = `encode(sha256(
  string_agg(uuid_send(t.tenant_id) || uuid_send(t.id) || timestamptz_send(t.posted_at), '')
  || coalesce(string_agg(uuid_send(t.id) || uuid_send(t.reverses), '') filter (where t.reverses is not null), '') || 'i'
  || coalesce(string_agg(uuid_send(t.id) || uuid_send(t.incident_id), '') filter (where t.incident_id is not null), '')
  || convert_to(string_agg(t.kind || ' ' || t.business_key, E'\\n'), 'UTF8')), 'hex')`
/** What a digest of transactions reads, all of which the index `journal_transaction_xid` holds. */
export const TRANSACTION_COLUMNS = 'xid, id, tenant_id, posted_at, kind, business_key, reverses, incident_id'

/** The digest of all faults that are noted as mended by transactions which a `pg_snapshot` sees, or which are not there. */
export async function mendedDigest(db: Queryable, snapshot: string): Promise<string> {
  const [row] = await db.query<{ digest: string }>(
    `select encode(sha256(convert_to(coalesce(string_agg(m::text, E'\\n' order by m::text collate "C"), ''), 'UTF8')), 'hex') as digest
     from (select m.tenant_id, m.account_id, m.transaction_id, m.check_name, m.seq, m.of_transaction, m.expected, m.seen
           from billing.mended_fault m
             left join billing.journal_transaction t on t.tenant_id = m.tenant_id and t.id = m.transaction_id
           where t.id is null or pg_visible_in_snapshot(t.xid, $1::pg_snapshot)) m`,
    [snapshot],
  )
  return row!.digest
}

/** Rows that `until` sees and `since` does not, the values at `$n` to `$n+3`. */
export const inWindow = (n: number) =>
  `(xid >= $${n}::xid8 or xid = any($${n + 1}::xid8[])) and xid < $${n + 2}::xid8 and xid <> all($${n + 3}::xid8[])`

/** @see inWindow */
export function windowValues({ since, until }: { since: string; until: string }): unknown[] {
  const [before, now] = [parseSnapshot(since), parseSnapshot(until)]
  return [before.xmax, before.xip, now.xmax, now.xip]
}

/** Entries of one account from `low` to `high`. */
export interface Span<A extends SpanAccount = SpanAccount> {
  account: A
  low: bigint
  high: bigint
}

export interface SpanAccount {
  tenantId: string
  accountId: string
  currency: string
}

/** The blocks of a seal as spans, each with the digest that it had. */
export function sealedSpans<A extends SpanAccount & Pick<SealedAccount, 'blocks'>>(
  account: A,
): (Span<A> & { digest: string })[] {
  return account.blocks.map(({ to, digest }, i) => ({
    account,
    low: (account.blocks[i - 1]?.to ?? 0n) + 1n,
    high: to,
    digest,
  }))
}

/** An array as Postgres reads it; of values that hold no quotes or commas. */
export const arrayOf = <T>(values: readonly T[], of: (value: T) => string | bigint): string =>
  `{${values.map(of).join(',')}}`

/** Parameters `$1` to `$5` of a statement that reads spans. */
export const spanValues = (spans: readonly Span[]): string[] => [
  arrayOf(spans, ({ account }) => account.tenantId),
  arrayOf(spans, ({ account }) => account.accountId),
  arrayOf(spans, ({ low }) => low),
  arrayOf(spans, ({ high }) => high),
  arrayOf(spans, ({ account }) => account.currency),
]
/** @see spanValues; further arrays and the closing parenthesis follow. */
export const SPANS = 'unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[], $5::text[]'
export const WITHIN =
  'e.tenant_id = s.tenant_id and e.account_id = s.account_id and e.seq between s.low and s.high'

// Of a span that holds another currency there is no digest.
const SPAN_DIGEST = `(
  select case when bool_and(e.currency = s.currency) then encode(sha256(string_agg(${ENTRY_BYTES}, '')), 'hex') end
  from (select seq, amount_minor, balance_minor, transaction_id, currency, posted_at
        from billing.entry e where ${WITHIN} order by seq) e)`

/** A digest of each span, in hex; empty where there can be none. */
export async function readDigests<S extends Span>(
  db: Queryable,
  spans: S[],
): Promise<{ span: S; digest: string }[]> {
  if (spans.length === 0) return []
  const rows = await db.query<{ digest: string }>(
    `select coalesce(${SPAN_DIGEST}, '') as digest
     from ${SPANS}) with ordinality as s(tenant_id, account_id, low, high, currency, nth) order by nth`,
    spanValues(spans),
    'ledger_digests',
  )
  return rows.map(({ digest }, i) => ({ span: spans[i]!, digest }))
}

/** Whole accounts of one tenant and currency: their blocks, the last one to the end. */
export interface Resting {
  tenantId: string
  currency: string
  accountIds: string[]
  lows: bigint[]
  highs: bigint[]
  digests: string[]
}

/**
 * Whether all blocks have their digests, by one digest of these: a quick look, in the order of the plan that the pass has
 * pinned. A no says nothing yet.
 */
export async function areAsSealed(db: Queryable, resting: Resting): Promise<boolean> {
  const { tenantId, currency, accountIds, lows, highs, digests } = resting
  const [row] = await db.query<{ digest: string | null }>(
    `select encode(sha256(string_agg(d.digest, '')), 'hex') as digest
     from unnest($2::uuid[], $3::bigint[], $4::bigint[]) as s(account_id, low, high), lateral (
       select case when count(*) filter (where e.currency <> $5) = 0 then sha256(string_agg(${ENTRY_BYTES}, '')) end as digest
       from billing.entry e where e.tenant_id = $1 and e.account_id = s.account_id and e.seq between s.low and s.high) d`,
    [tenantId, arrayOf(accountIds, String), arrayOf(lows, String), arrayOf(highs, String), currency],
    'ledger_resting',
  )
  return row!.digest === createHash('sha256').update(digests.join(''), 'hex').digest('hex')
}

/** Spans whose digest is another than theirs. */
export async function changedSpans<S extends Span & { digest: string }>(
  db: Queryable,
  spans: S[],
): Promise<S[]> {
  if (spans.length === 0) return []
  const rows = await db.query<{ nth: number }>(
    `select nth::int as nth from ${SPANS}, $6::text[])
       with ordinality as s(tenant_id, account_id, low, high, currency, digest, nth)
     where digest is distinct from ${SPAN_DIGEST}`,
    [...spanValues(spans), arrayOf(spans, ({ digest }) => digest)],
    'ledger_changed_spans',
  )
  return rows.map(({ nth }) => spans[nth - 1]!)
}
