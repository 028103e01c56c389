import type { Queryable } from '../../adapters/postgres/client.ts'
import type { Finding } from '../../finding.ts'
import type { Rule } from '../../findings-report.ts'
import type { ErasureSecret } from '../erasure/secret.ts'
import {
  changedBlocks,
  inStretch,
  inStretchValues,
  inWindow,
  readDigests,
  sealedSpans,
  windowValues,
} from './digest.ts'
import { type DuplicateScope, findDuplicates } from './duplicates.ts'
import { accountFaults, approvedMenders, type Fault, mendedBy, type ToldFault, unmended } from './faults.ts'
import { DRIFT_RUNBOOK } from './freeze.ts'
import {
  ACCOUNT_CODE,
  NOTHING_SEALED,
  type Seal,
  type SealedAccount,
  type SealedTransactions,
  type Stretch,
} from './seal.ts'

const rule = (id: string, category: string, title: string): Rule => ({ id, category, title })

/** What `ledger verify` holds an account, a transaction and the seals to. */
export const LEDGER_RULES: readonly Rule[] = [
  rule('ledger/balance', 'accounts', 'every balance is the sum of its entries'),
  rule('ledger/sequence', 'accounts', 'sequences have no gap, and end where the balance says'),
  rule('ledger/running-balance', 'accounts', 'every entry’s balance follows from the one before'),
  rule('ledger/currency', 'accounts', 'every entry is in its account’s currency'),
  rule('ledger/time', 'accounts', 'no entry is dated in the future'),
  rule('ledger/zero-sum', 'transactions', 'every transaction sums to zero in each currency'),
  rule('ledger/transaction', 'transactions', 'every entry was posted with its transaction'),
  rule(
    'ledger/document',
    'transactions',
    'every charge, payment and refund is what was posted for it, and nothing else was',
  ),
  rule('ledger/duplicate', 'transactions', 'nothing was charged or paid twice'),
  rule('ledger/sealed-account', 'seals', 'no account was changed or removed since it was sealed'),
  rule('ledger/sealed-tail', 'seals', 'no sealed entry is gone from the end of an account'),
  rule('ledger/sealed-entries', 'seals', 'every sealed entry is as it was sealed'),
  rule('ledger/sealed-transactions', 'seals', 'every sealed transaction is as it was sealed'),
  rule('ledger/sealed-mendings', 'seals', 'what sealed transactions have mended is what was noted then'),
  rule('ledger/seal', 'seals', 'the last seal is ours, whole, and the one that was written last'),
  rule('ledger/guards', 'guards', 'triggers, constraints and functions that guard the ledger are in force'),
]

/** tabib's secret of erasures, where there is one: what was erased has other names than when it was sealed. */
export type Names = () => Promise<ErasureSecret>

/** An account that something does not hold of, and what its seal says of it. */
export interface SuspectAccount {
  tenantId: string
  accountId: string
  sealed: SealedAccount | undefined
}

export interface SuspectTransaction {
  tenantId: string
  id: string
}

export interface LedgerFinding extends Finding {
  /** Accounts whose figures it puts in doubt: they take no post until it is explained. */
  freezes: { tenantId: string; id: string }[]
}

export function ledgerFinding(
  id: string,
  about: Pick<Finding, 'object' | 'message'> & Partial<LedgerFinding>,
): LedgerFinding {
  // An incident keeps it as JSON, which knows no bigint.
  const evidence = Object.fromEntries(
    Object.entries(about.evidence ?? {}).map(([name, value]) => [
      name,
      typeof value === 'bigint' ? String(value) : value,
    ]),
  )
  return {
    id,
    check: 'ledger verify',
    severity: 'critical',
    fix: null,
    runbook: DRIFT_RUNBOOK,
    cacheKey: [id, about.object, evidence.seq ?? ''].join(':'),
    waived: false,
    freezes: [],
    ...about,
    evidence,
  }
}

const RULE_OF: Record<Fault['check'], string> = {
  balance: 'ledger/balance',
  'balance-sequence': 'ledger/sequence',
  sequence: 'ledger/sequence',
  chain: 'ledger/running-balance',
  currency: 'ledger/currency',
  'zero-sum': 'ledger/zero-sum',
  transaction: 'ledger/transaction',
}

/**
 * Everything that is wrong with one account by itself and against its seal, as one snapshot shows it. Where a sealed
 * block is another, its rows that were written by another transaction than they say are named; those are the changed ones.
 * @param stretches those that were found changed.
 */
export async function examineAccount(
  db: Queryable,
  { tenantId, accountId, sealed }: SuspectAccount,
  last: Seal | undefined,
  names?: Names,
  stretches: readonly Stretch[] = [],
): Promise<LedgerFinding[]> {
  const about = (id: string, message: string, evidence: Record<string, unknown>): LedgerFinding =>
    ledgerFinding(id, {
      object: `account ${accountId}`,
      message,
      evidence: { tenantId, accountId, ...evidence },
      freezes: [{ tenantId, id: accountId }],
      fix: `tabib ledger reconcile ${accountId} --dry-run`,
    })
  const faults = await accountFaults(db, { tenantId, id: accountId })
  const findings = faults.map((fault) => about(RULE_OF[fault.check], faultText(fault), { ...fault }))
  const others: LedgerFinding[] = []
  const future = await db.query<{ seq: bigint; transactionId: string; postedAt: Date }>(
    `select seq, transaction_id as "transactionId", posted_at as "postedAt" from billing.entry
     where tenant_id = $1 and account_id = $2 and posted_at > clock_timestamp() + interval '5 minutes'
     order by seq limit ${MOST_NAMED}`,
    [tenantId, accountId],
  )
  for (const { seq, transactionId, postedAt } of future) {
    others.push(
      about('ledger/time', `entry ${seq} is dated ${postedAt.toISOString()}`, { seq, transactionId }),
    )
  }
  const since = last?.ofThisCluster ? (sealed?.heldAt ?? last.snapshot) : NOTHING_SEALED
  const moved = await db.query<{ seq: bigint; transactionId: string }>(
    `select seq, transaction_id as "transactionId" from billing.entry
     where tenant_id = $1 and account_id = $2 and seq > $3 and pg_visible_in_snapshot(xid, $4::pg_snapshot)
     order by seq limit ${MOST_NAMED}`,
    [tenantId, accountId, sealed?.seq ?? 0n, since],
  )
  for (const { seq, transactionId } of moved) {
    const message = `entry ${seq} is older than the seal, which did not find it here`
    others.push(about('ledger/sealed-entries', message, { seq, transactionId }))
  }
  const newer =
    sealed && last?.ofThisCluster
      ? await db.query<{ seq: bigint; transactionId: string }>(
          `select seq, transaction_id as "transactionId" from billing.entry
           where tenant_id = $1 and account_id = $2 and seq > $3 and seq <= $4 and not pg_visible_in_snapshot(xid, $5::pg_snapshot)
           order by seq limit ${MOST_NAMED}`,
          [tenantId, accountId, sealed.blocks.at(-1)?.to ?? 0n, sealed.seq, since],
        )
      : []
  for (const { seq, transactionId } of newer) {
    const message = `entry ${seq} is newer than the seal, which found another one here`
    others.push(about('ledger/sealed-entries', message, { seq, transactionId }))
  }
  if (sealed) {
    others.push(
      ...[
        ...(await againstSeal(db, sealed, names)),
        ...(await rewrittenSince(db, sealed, last, stretches)),
      ].map(({ id, message, ...rest }) => about(id, message, rest)),
    )
  }
  const open = await unmended(
    db,
    { tenantId, id: accountId },
    others.map((finding) => ({ ...faultOf(finding), finding })),
  )
  return [...findings, ...open.map(({ finding }) => finding)]
}

/** A finding about an account as it is known by once it is mended. */
export function faultOf({ id, message, evidence }: LedgerFinding): ToldFault {
  const {
    check = id,
    seq = null,
    transactionId = null,
    expected = '',
    seen = '',
  } = evidence as Partial<Fault>
  return { check, seq, transactionId, expected, seen, says: message }
}

const MOST_NAMED = 20
const MOST_EXAMINED = 200

function faultText({ check, seq, transactionId, expected, seen }: Fault): string {
  switch (check) {
    case 'balance':
      return `its balance is ${seen}, and its entries sum to ${expected}`
    case 'balance-sequence':
      return `its balance is at sequence ${seen}, and its last entry is ${expected}`
    case 'sequence':
      return `entry ${seq} comes where ${expected} should be`
    case 'chain':
      return `after entry ${seq} the balance should be ${expected}, and the entry says ${seen}`
    case 'currency':
      return `entry ${seq} is in ${seen}, and the account is kept in ${expected}`
    case 'zero-sum':
      return `entry ${seq}: its transaction ${transactionId} sums to ${seen}`
    case 'transaction':
      return `entry ${seq} was not written with its transaction ${transactionId}`
  }
}

type Change = {
  id: string
  message: string
  seq?: bigint
  transactionId?: string
  expected?: string
  seen?: string
}

interface WrittenAnew {
  seq: bigint
  transactionId: string
  amountMinor: bigint
}

const writtenAnew = ({ seq, transactionId, amountMinor }: WrittenAnew): Change => ({
  id: 'ledger/sealed-entries',
  message: `entry ${seq} was written anew since it was sealed`,
  seq,
  transactionId,
  seen: String(amountMinor),
})

async function againstSeal(
  db: Queryable,
  sealed: SealedAccount,
  names: Names | undefined,
): Promise<Change[]> {
  const { tenantId, accountId } = sealed
  const [now] = await db.query<{
    code: string
    currency: string
    openingMinor: bigint
    seq: bigint | null
    balanceMinor: bigint | null
    last: bigint | null
  }>(
    `select ${ACCOUNT_CODE} as code, a.currency, a.opening_minor as "openingMinor", b.seq, b.balance_minor as "balanceMinor",
       (select max(e.seq) from billing.entry e where e.tenant_id = a.tenant_id and e.account_id = a.id) as last
     from billing.account a left join billing.balance b on b.tenant_id = a.tenant_id and b.account_id = a.id
     where a.tenant_id = $1 and a.id = $2`,
    [tenantId, accountId],
  )
  if (!now) {
    const [elsewhere] = await db.query<{ tenantId: string }>(
      'select tenant_id as "tenantId" from billing.account where id = $1',
      [accountId],
    )
    const where = elsewhere ? `it is now tenant ${elsewhere.tenantId}'s` : 'it is gone'
    return [
      {
        id: 'ledger/sealed-account',
        message: `${where}, and was tenant ${tenantId}'s with ${sealed.seq} entries`,
      },
    ]
  }
  const changes: Change[] = []
  for (const fact of ['code', 'currency', 'openingMinor'] as const) {
    if (now[fact] === sealed[fact]) continue
    if (fact === 'code' && (await isErased(db, sealed, now.code, names))) continue
    const [expected, seen] = [String(sealed[fact]), String(now[fact])]
    changes.push({
      id: 'ledger/sealed-account',
      message: `its ${FACTS[fact]} was ${expected} and is ${seen}`,
      expected,
      seen,
    })
  }
  if (sealed.seq > 0n && now.seq === null) {
    changes.push({
      id: 'ledger/sealed-account',
      message: `its balance is gone, and was ${sealed.balanceMinor}`,
    })
  }
  const last = now.last ?? 0n
  if (last < sealed.seq) {
    changes.push({
      id: 'ledger/sealed-tail',
      message: `entries ${last + 1n} to ${sealed.seq} are gone, after which it stood at ${sealed.balanceMinor}`,
      seq: last + 1n,
      expected: String(sealed.seq),
      seen: String(last),
    })
  }
  if (now.seq === sealed.seq && now.balanceMinor !== sealed.balanceMinor) {
    const [expected, seen] = [String(sealed.balanceMinor), String(now.balanceMinor)]
    changes.push({
      id: 'ledger/balance',
      message: `nothing was posted since it stood at ${expected}, and it is at ${seen}`,
      expected,
      seen,
    })
  }
  const spans = sealedSpans(sealed)
  for (const { span, digest } of await readDigests(db, spans)) {
    // What is missing at the end is told already.
    if (digest === span.digest || last < span.low) continue
    const rewritten = await db.query<WrittenAnew>(
      `select e.seq, e.transaction_id as "transactionId", e.amount_minor as "amountMinor"
       from billing.entry e left join billing.journal_transaction t on t.tenant_id = e.tenant_id and t.id = e.transaction_id
       where e.tenant_id = $1 and e.account_id = $2 and e.seq between $3 and $4
         and (e.xmin::text <> (e.xid::text::numeric % 4294967296)::text or t.xid is distinct from e.xid)
       order by e.seq limit ${MOST_NAMED}`,
      [tenantId, accountId, span.low, span.high],
    )
    changes.push(...rewritten.map(writtenAnew))
    if (rewritten.length > 0 || last < span.high) continue
    changes.push({
      id: 'ledger/sealed-entries',
      message: `of entries ${span.low} to ${span.high} one or more are not as they were sealed`,
      seq: span.low,
      expected: span.digest!,
      seen: digest,
    })
  }
  return changes
}

// Of an entry `e` that was written by another transaction than it says, which a restored copy's all are.
const REWRITTEN = `e.xmin::text <> (e.xid::text::numeric % 4294967296)::text`

/** Of entries that were sealed in the order of posting alone, those of an account that were written anew since. */
async function rewrittenSince(
  db: Queryable,
  { tenantId, accountId, seq, blocks }: SealedAccount,
  last: Seal | undefined,
  stretches: readonly Stretch[],
): Promise<Change[]> {
  if (!last?.ofThisCluster) return []
  const changes: Change[] = []
  for (const stretch of stretches) {
    const rows = await db.query<WrittenAnew>(
      `select e.seq, e.transaction_id as "transactionId", e.amount_minor as "amountMinor" from billing.entry e
       where ${inStretch(1)} and e.tenant_id = $7 and e.account_id = $8 and e.seq > $9 and e.seq <= $10 and ${REWRITTEN}
       order by e.seq limit ${MOST_NAMED}`,
      [...inStretchValues(stretch), tenantId, accountId, blocks.at(-1)?.to ?? 0n, seq],
    )
    changes.push(...rows.map(writtenAnew))
  }
  return changes
}

/** Accounts (tenant and id) that have such entries. */
export async function rewrittenAccounts(
  db: Queryable,
  last: Seal | undefined,
  stretches: readonly Stretch[],
): Promise<Set<string>> {
  const accounts = new Set<string>()
  for (const stretch of last?.ofThisCluster ? stretches : []) {
    const rows = await db.query<{ key: string }>(
      `select distinct e.tenant_id || ' ' || e.account_id as key from billing.entry e
       where ${inStretch(1)} and ${REWRITTEN} limit ${MOST_EXAMINED}`,
      inStretchValues(stretch),
    )
    for (const { key } of rows) accounts.add(key)
  }
  return accounts
}

/** A stretch that is not as it was sealed, where no account says why. */
export function stretchFinding({ from, to, count }: Stretch): LedgerFinding {
  const times = `${from.toISOString()} and ${to.toISOString()}`
  return ledgerFinding('ledger/sealed-entries', {
    object: `entries posted between ${times}`,
    message: `${count} entries were sealed here, and one or more are not as they were`,
    evidence: { from, to, expected: count },
  })
}

const RECEIVABLE = /^receivable:([0-9a-f-]{36})$/

/** Whether the patient whom the account was named for was erased, and it bears the pseudonym that erasure gives. */
async function isErased(
  db: Queryable,
  { tenantId, code }: SealedAccount,
  now: string,
  names: Names | undefined,
): Promise<boolean> {
  const [was, is] = [RECEIVABLE.exec(code)?.[1], RECEIVABLE.exec(now)?.[1]]
  if (was === undefined || is === undefined || names === undefined) return false
  // Without the secret nobody can tell, and the change is shown.
  const secret = await names().catch(() => undefined)
  if (!secret?.pseudonyms(tenantId, was).includes(is)) return false
  const erased = await db.query(
    'select from tabib.erasure_subject where tenant_id = $1 and subject_hash = $2',
    [tenantId, secret.subjectHash(tenantId, was)],
  )
  return erased.length > 0
}

const FACTS = { code: 'code', currency: 'currency', openingMinor: 'opening balance' }

interface SeenTransaction extends SuspectTransaction {
  accounts: string[]
  /** `<account> <seq>` of each. */
  entries: string[]
}

/** Not an entry of which a reconciliation has explained that it was not written with its transaction. */
const notKnown = (entry: string, n: number) => `not exists (select from ${mendedBy(n)}
  where (m.tenant_id, m.account_id, m.seq, m.of_transaction) = (${entry}.tenant_id, ${entry}.account_id, ${entry}.seq, ${entry}.transaction_id)
    and m.check_name = 'transaction')`

/** What is wrong with transactions that a pass suspects: exactly, currency by currency. */
export async function examineTransactions(
  db: Queryable,
  suspects: SuspectTransaction[],
): Promise<LedgerFinding[]> {
  if (suspects.length === 0) return []
  const rows = await db.query<
    SeenTransaction & { off: string | null; apart: number; timed: boolean; postedAt: Date }
  >(
    `select t.tenant_id as "tenantId", t.id, t.posted_at as "postedAt", e.accounts, e.entries,
       (select string_agg(o.total || ' ' || o.currency, ', ') from (
          select e.currency, sum(e.amount_minor) as total from billing.entry e
          where e.tenant_id = t.tenant_id and e.transaction_id = t.id group by 1 having sum(e.amount_minor) <> 0) o) as off,
       e.apart, e.timed
     from unnest($1::uuid[], $2::uuid[]) as s(tenant_id, id)
     join billing.journal_transaction t on t.tenant_id = s.tenant_id and t.id = s.id,
     lateral (
       select coalesce(array_agg(distinct e.account_id::text), '{}') as accounts,
         coalesce(array_agg(e.account_id || ' ' || e.seq), '{}') as entries,
         (count(*) filter (where e.xid <> t.xid and ${notKnown('e', 3)}))::int as apart,
         coalesce(bool_and(e.posted_at between t.posted_at - interval '1 hour' and t.posted_at + interval '1 day'), true) as timed
       from billing.entry e where e.tenant_id = t.tenant_id and e.transaction_id = t.id) e
     -- An adjustment that only notes something has one entry, of nothing.
     where not exists (select from ${mendedBy(3)}
       where m.tenant_id = t.tenant_id and m.check_name in ('zero-sum', 'missing') and m.of_transaction = t.id)`,
    [suspects.map(({ tenantId }) => tenantId), suspects.map(({ id }) => id), await approvedMenders(db)],
  )
  return rows.flatMap((row) => {
    const { entries, off, apart, timed, postedAt } = row
    const about = (ruleId: string, message: string) => transactionFinding(ruleId, row, message)
    return [
      ...(entries.length === 0 ? [about('ledger/transaction', 'it has no entries')] : []),
      ...(off !== null ? [about('ledger/zero-sum', `its entries sum to ${off}`)] : []),
      ...(apart > 0 ? [about('ledger/transaction', `${apart} of its entries were not written with it`)] : []),
      ...(timed
        ? []
        : [about('ledger/transaction', `it is dated ${postedAt.toISOString()}, and its entries are not`)]),
    ]
  })
}

function transactionFinding(
  ruleId: string,
  { tenantId, id, accounts, entries }: SeenTransaction,
  message: string,
): LedgerFinding {
  return ledgerFinding(ruleId, {
    object: `transaction ${id}`,
    message,
    evidence: { tenantId, transactionId: id, entries: entries.join(', ') },
    // What a transaction says of itself changes no balance; what it sums to does.
    freezes: ruleId === 'ledger/zero-sum' ? accounts.map((account) => ({ tenantId, id: account })) : [],
    fix: accounts[0] ? `tabib ledger reconcile ${accounts[0]} --dry-run` : null,
  })
}

/** Which of a sealed block's transactions are not as they were: what was written anew, what came in, what is gone. */
export async function examineBlock(db: Queryable, block: SealedTransactions): Promise<LedgerFinding[]> {
  const place = [block.from.xid, block.from.id, block.to.xid, block.to.id]
  if ((await changedBlocks(db, [block])).length === 0) return []
  const rewritten = await db.query<SeenTransaction>(
    `select t.tenant_id as "tenantId", t.id, e.accounts, e.entries
     from billing.journal_transaction t, lateral (
       select coalesce(array_agg(distinct e.account_id::text), '{}') as accounts,
         coalesce(array_agg(e.account_id || ' ' || e.seq), '{}') as entries
       from billing.entry e where e.tenant_id = t.tenant_id and e.transaction_id = t.id) e
     where (t.xid, t.id) >= ($1::xid8, $2::uuid) and (t.xid, t.id) <= ($3::xid8, $4::uuid)
       and t.xmin::text <> (t.xid::text::numeric % 4294967296)::text
     order by t.xid, t.id limit ${MOST_NAMED}`,
    place,
  )
  const findings = rewritten.map((one) =>
    transactionFinding('ledger/sealed-transactions', one, 'it was written anew since it was sealed'),
  )
  const [now] = await db.query<{ count: number }>(
    `select count(*)::int as count from billing.journal_transaction t
     where (t.xid, t.id) >= ($1::xid8, $2::uuid) and (t.xid, t.id) <= ($3::xid8, $4::uuid) and ${inWindow(5, 't.xid')}`,
    [...place, ...windowValues(block)],
  )
  const { count } = now!
  if (count < block.count || findings.length === 0) {
    findings.push(
      ledgerFinding('ledger/sealed-transactions', {
        object: `transactions ${block.from.id} to ${block.to.id}`,
        message: `${block.count} transactions were sealed here, and ${count === block.count ? 'one or more are not as they were' : `there are ${count}`}`,
        evidence: { from: block.from, to: block.to, expected: block.count, seen: count },
      }),
    )
  }
  return findings
}

/** What was charged or posted twice: nothing in it is unlawful, and so it stops no account. */
export async function examineDuplicates(
  { db }: { db: Queryable },
  scope: DuplicateScope,
): Promise<LedgerFinding[]> {
  const found = (await findDuplicates({ db }, scope)).slice(0, MOST_EXAMINED)
  const entries = await db.query<{ key: string; seq: bigint }>(
    `select d.transaction_id || ' ' || d.account_id as key, min(e.seq) as seq
     from unnest($1::uuid[], $2::uuid[], $3::uuid[]) as d(tenant_id, transaction_id, account_id)
     join billing.entry e on e.tenant_id = d.tenant_id and e.transaction_id = d.transaction_id and e.account_id = d.account_id
     group by 1`,
    [
      found.map((one) => one.tenantId),
      found.map((one) => one.transactionId),
      found.map((one) => one.accountId),
    ],
  )
  const seqOf = new Map(entries.map(({ key, seq }) => [key, seq]))
  return found.map(({ basis, certain, tenantId, tenant, accountId, transactionId, chargeId, ...one }) => {
    const seq = seqOf.get(`${transactionId} ${accountId}`)
    const twin = one.originalTransactionId ?? one.originalChargeId
    return ledgerFinding('ledger/duplicate', {
      severity: certain ? 'error' : 'warning',
      object: accountId === null ? `charge ${chargeId}` : `account ${accountId}`,
      message: `${seq === undefined ? `charge ${chargeId}` : `entry ${seq}, transaction ${transactionId},`} repeats ${twin} (by ${basis})`,
      evidence: {
        tenantId,
        accountId,
        seq: seq ?? null,
        transactionId,
        chargeId,
        amountMinor: one.amountMinor,
      },
      fix: `tabib ledger reconcile ${accountId ?? `--tenant ${tenant}`} --duplicates --dry-run`,
      runbook: 'runbooks/billing/fm-08-duplicate-charge-capture.md',
    })
  })
}

/** Entries that were not written with their transaction, or whose transaction or account is not there. Reads them all. */
export async function strayEntries(db: Queryable, last: Seal | undefined): Promise<LedgerFinding[]> {
  const rows = await db.query<{
    tenantId: string
    accountId: string
    seq: bigint
    transactionId: string
    why: string
  }>(
    `select e.tenant_id as "tenantId", e.account_id as "accountId", e.seq, e.transaction_id as "transactionId",
       case when a.id is null then 'its account is not there'
         when t.id is null then 'its transaction is not there'
         when t.xid is distinct from e.xid then 'it was not written with its transaction'
         else 'it says it was written by a transaction that is not over' end as why
     from billing.entry e
     left join billing.journal_transaction t on t.tenant_id = e.tenant_id and t.id = e.transaction_id
     left join billing.account a on a.tenant_id = e.tenant_id and a.id = e.account_id
     where (a.id is null or t.xid is distinct from e.xid
       -- What is seen here is over, and so is what wrote it; after a restore the numbers are another cluster's.
       or ($1 and not pg_visible_in_snapshot(e.xid, pg_current_snapshot()))) and ${notKnown('e', 2)}
     order by 1, 2, 3 limit ${MOST_NAMED}`,
    [last?.ofThisCluster ?? false, await approvedMenders(db)],
  )
  return rows.map(({ tenantId, accountId, seq, transactionId, why }) =>
    ledgerFinding('ledger/transaction', {
      object: `account ${accountId}`,
      message: `entry ${seq}: ${why}`,
      evidence: { tenantId, accountId, seq, transactionId },
      freezes: [{ tenantId, id: accountId }],
      fix: `tabib ledger reconcile ${accountId} --dry-run`,
    }),
  )
}
