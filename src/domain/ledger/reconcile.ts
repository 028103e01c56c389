import type { Database, Queryable, Transaction } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { planHash } from '../audit/canonical-json.ts'
import { type Account, openAccount } from './account.ts'
import { accountFaults, type Fault } from './faults.ts'
import { DRIFT_RUNBOOK, freezeAccount, freezeOf } from './freeze.ts'
import { ledgerRefusal } from './post.ts'

/** How an account gets back to a state that verifies. Amounts in minor units of the account's currency. */
export interface Reconciliation extends Posted {
  account: Account
  /** What `billing.balance` says. */
  balanceMinor: bigint
  /** What the entries sum to. */
  entriesMinor: bigint
  /** What the adjusting transaction posts to the account; 0 where it only notes what was found. */
  adjustmentMinor: bigint
  /** The account that it is posted against. */
  against: string | null
  /** The sequence goes on after this number, so that none is used twice. */
  continueAfter: bigint
  /** What is wrong, entry by entry; nothing to do when empty. */
  faults: (Fault<string> & { says: string })[]
}

/**
 * What is wrong with an account and how it would be mended; reads only. History stays as it is: an adjusting transaction
 * makes up for what it lacks, against the tenant's suspense account of the currency, and the balance is taken from the
 * entries again.
 * @param balanceMinor what the balance has to be, where the ledger itself cannot tell.
 */
export async function planReconciliation(
  db: Queryable,
  account: Account,
  { balanceMinor: given }: { balanceMinor?: bigint | undefined } = {},
): Promise<Reconciliation> {
  const figures = await readFigures(db, account)
  const broken = await faultsWithMissing(db, account, figures)
  const { balanceMinor, entriesMinor, seq, lastSeq } = figures
  const { postedMinor, because } =
    given === undefined
      ? await whatWasPosted(db, account, figures, broken)
      : { postedMinor: given, because: 'it was given' }
  const adjustmentMinor = broken.length === 0 ? 0n : postedMinor - entriesMinor
  const suspense = `suspense:${account.currency}`
  return {
    account,
    balanceMinor,
    entriesMinor,
    postedMinor,
    because,
    adjustmentMinor,
    against: adjustmentMinor === 0n ? null : account.code === suspense ? `${suspense}:2` : suspense,
    continueAfter: seq > lastSeq && isTruncated(figures, broken) ? seq : lastSeq,
    faults: broken.map((fault) => ({ ...fault, says: explain(fault) })),
  }
}

/** The transaction that applied a plan, if it was applied. */
export async function appliedReconciliation(
  db: Queryable,
  { tenantId }: Account,
  hash: string,
): Promise<{ transactionId: string; incidentId: string } | undefined> {
  const [done] = await db.query<{ transactionId: string; incidentId: string }>(
    `select id as "transactionId", incident_id as "incidentId" from billing.journal_transaction
     where tenant_id = $1 and business_key = $2`,
    [tenantId, businessKey(hash)],
  )
  return done
}

const businessKey = (hash: string) => `reconcile:${hash}`

/**
 * Applies a plan by one transaction that names the account's incident; an account that nobody froze is frozen first, and
 * it stays frozen. Repeated, it changes nothing. The account verifies when this returns.
 * @throws TabibError PLAN_STALE when the account is no longer as it was planned for, LEDGER_DRIFT when the plan would not
 * mend it, ACCOUNT_FROZEN when the account that it posts against is frozen itself; nothing is changed then.
 */
export async function applyReconciliation(
  { db }: { db: Database },
  plan: Reconciliation,
  { balanceMinor }: { balanceMinor?: bigint | undefined } = {},
): Promise<{ transactionId: string; incidentId: string }> {
  const { account, adjustmentMinor, against, continueAfter } = plan
  const { tenantId, id, currency } = account
  const hash = planHash(plan)
  const before = await freezeOf(db, account)
  const { incidentId } =
    before ?? (await freezeAccount({ db }, account, { reason: 'it is being reconciled' }))
  return db.transaction(async (tx) => {
    await tx.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
    await freezeOf(tx, account, { lock: true })
    const done = await appliedReconciliation(tx, account, hash)
    if (done) return done
    const now = planHash(await planReconciliation(tx, account, { balanceMinor }))
    if (now !== hash) {
      throw new TabibError('PLAN_STALE', `the plan is now ${now}, not ${hash}: the account has moved`, {
        suggestions: [`tabib ledger reconcile ${id} --dry-run`],
      })
    }
    const againstId = against && (await openAccount(tx, { tenantId, code: against, currency }))
    const transactionId = await mend(tx, [
      ...[tenantId, id, incidentId, businessKey(hash), adjustmentMinor, againstId, currency, continueAfter],
      JSON.stringify(plan.faults, (_, value) => (typeof value === 'bigint' ? value.toString() : value)),
    ])
    const left = await accountFaults(tx, account)
    if (left.length > 0) {
      throw new TabibError(
        'LEDGER_DRIFT',
        `account ${id} would not verify afterwards: ${left.map(explain).join('; ')}`,
        { suggestions: [`tabib ledger reconcile ${id} --dry-run`], ref: DRIFT_RUNBOOK },
      )
    }
    return { transactionId, incidentId }
  })
}

async function mend(tx: Transaction, values: unknown[]): Promise<string> {
  try {
    const [posted] = await tx.query<{ id: string }>(
      'select transaction_id as id from billing.mend($1, $2, $3, $4, $5, $6, $7, $8, $9)',
      values,
    )
    return posted!.id
  } catch (cause) {
    throw ledgerRefusal(cause)
  }
}

interface Figures {
  balanceMinor: bigint
  seq: bigint
  entriesMinor: bigint
  lastSeq: bigint
  /** The running balance of the last entry, and of the one that the balance's own sequence names. */
  lastMinor: bigint
  atSeqMinor: bigint | null
}

async function readFigures(db: Queryable, { tenantId, id }: Account): Promise<Figures> {
  const [figures] = await db.query<Figures>(
    `select coalesce(b.balance_minor, 0) as "balanceMinor", coalesce(b.seq, 0) as seq, e.total::bigint as "entriesMinor",
       coalesce(l.seq, 0) as "lastSeq", coalesce(l.balance_minor, 0) as "lastMinor", r.balance_minor as "atSeqMinor"
     from (select coalesce(sum(amount_minor), 0) as total from billing.entry where tenant_id = $1 and account_id = $2) e
     left join billing.balance b on b.tenant_id = $1 and b.account_id = $2
     left join lateral (
       select seq, balance_minor from billing.entry where tenant_id = $1 and account_id = $2 order by seq desc limit 1) l on true
     left join billing.entry r on r.tenant_id = $1 and r.account_id = $2 and r.seq = b.seq`,
    [tenantId, id],
  )
  return figures!
}

/** What the balance has to be, and why that is believed. */
interface Posted {
  postedMinor: bigint
  because: string
}

/**
 * Three records say what was posted: the balance, the last entry's running balance, and the sum of the entries. Whoever
 * changes one leaves two, and what a transaction's other entries say decides where the sequence numbers differ as well.
 */
async function whatWasPosted(
  db: Queryable,
  account: Account,
  figures: Figures,
  faults: readonly Fault<string>[],
): Promise<Posted> {
  const { balanceMinor, seq, entriesMinor, lastSeq, lastMinor, atSeqMinor } = figures
  if (
    seq < lastSeq &&
    balanceMinor !== lastMinor &&
    faults.some((fault) => fault.seq !== null && fault.seq > seq)
  ) {
    return { postedMinor: atSeqMinor ?? balanceMinor, because: `entries after ${seq} were not posted` }
  }
  const { postedMinor, because } =
    balanceMinor === lastMinor
      ? { postedMinor: balanceMinor, because: 'balance and last entry agree' }
      : seq === lastSeq && balanceMinor === entriesMinor
        ? { postedMinor: balanceMinor, because: 'balance and entries agree' }
        : seq > lastSeq && isTruncated(figures, faults)
          ? {
              postedMinor: balanceMinor,
              because: 'transactions lack what the balance counts and is gone from the end',
            }
          : { postedMinor: lastMinor, because: 'the last entry says so, and no transaction contradicts it' }
  const unbalanced = await unbalancedHere(db, account, faults)
  if (unbalanced.length === 0) return { postedMinor, because }
  const off = unbalanced.reduce((total, { seen }) => total + BigInt(seen), 0n)
  const which = unbalanced.map(({ transactionId }) => transactionId).join(', ')
  return {
    postedMinor: postedMinor - off,
    because: `${because}, less the ${off} by which ${which} is out of balance`,
  }
}

/** Transactions of the account that do not sum to zero, and of whose entries no other fault tells, here or elsewhere. */
async function unbalancedHere(
  db: Queryable,
  account: Account,
  faults: readonly Fault<string>[],
): Promise<Fault<string>[]> {
  const tells = (all: readonly Fault<string>[], { transactionId }: Fault<string>) =>
    all.some((one) => one.check !== 'zero-sum' && one.transactionId === transactionId)
  const unexplained = faults.filter((fault) => fault.check === 'zero-sum' && !tells(faults, fault))
  if (unexplained.length === 0) return []
  const others = await db.query<Account>(
    `select tenant_id as "tenantId", id, code, currency from billing.account a
     where tenant_id = $1 and id <> $2 and (
       exists (select from billing.entry e where e.tenant_id = $1 and e.account_id = a.id and e.transaction_id = any($3))
       or exists (select from billing.balance b where b.tenant_id = $1 and b.account_id = a.id and b.frozen_at is not null))`,
    [account.tenantId, account.id, unexplained.map(({ transactionId }) => transactionId)],
  )
  const elsewhere: Fault<string>[] = []
  for (const other of others)
    elsewhere.push(...(await faultsWithMissing(db, other, await readFigures(db, other))))
  return unexplained.filter((fault) => !tells(elsewhere, fault))
}

async function faultsWithMissing(
  db: Queryable,
  account: Account,
  figures: Figures,
): Promise<Fault<string>[]> {
  const faults = await accountFaults(db, account)
  return [...faults, ...(await missingLegs(db, account, faults, figures))]
}

/** Whether entries that the balance counts are gone from the end: their transactions lack them. */
const isTruncated = ({ lastSeq }: Figures, faults: readonly Fault<string>[]): boolean =>
  faults.some(({ check, seq }) => check === 'missing' && seq !== null && seq > lastSeq)

/**
 * Around a gap: transactions of the time that lack an entry and have none here, as far as what they lack is what the gap
 * has taken from the balance; another's fault is not this account's to explain.
 */
async function missingLegs(
  db: Queryable,
  { tenantId, id, currency }: Account,
  faults: readonly Fault<string>[],
  { balanceMinor, lastMinor }: Figures,
): Promise<Fault<string>[]> {
  const found: Fault<string>[] = []
  for (const { check, seq, expected } of faults) {
    if (check !== 'sequence' && check !== 'balance-sequence') continue
    const broken = faults.find((one) => one.check === 'chain' && one.seq === seq)
    const gap =
      check === 'sequence'
        ? {
            from: BigInt(expected),
            to: seq,
            lacks: broken ? BigInt(broken.seen) - BigInt(broken.expected) : 0n,
          }
        : { from: BigInt(expected) + 1n, to: null, lacks: balanceMinor - lastMinor }
    const near = await db.query<{ transactionId: string; off: bigint }>(
      `select t.id as "transactionId", coalesce(sum(e.amount_minor) filter (where e.currency = $5), 0)::bigint as off
       from billing.journal_transaction t left join billing.entry e on e.tenant_id = t.tenant_id and e.transaction_id = t.id
       where t.tenant_id = $1
         and t.posted_at >= coalesce((select max(posted_at) from billing.entry
           where tenant_id = $1 and account_id = $2 and seq < $3), '-infinity') - interval '1 minute'
         and t.posted_at <= coalesce((select posted_at from billing.entry
           where tenant_id = $1 and account_id = $2 and seq = $4), 'infinity') + interval '1 minute'
         and not exists (select from billing.mended_fault m
           where m.tenant_id = $1 and m.of_transaction = t.id and m.check_name in ('zero-sum', 'missing'))
       group by t.id
       having count(*) filter (where e.account_id = $2) = 0
         and (count(e.seq) = 0 or sum(e.amount_minor) filter (where e.currency = $5) <> 0)
       order by t.id`,
      [tenantId, id, gap.from, gap.to, currency],
    )
    const halves = near.filter(({ off }) => off !== 0n)
    const sum = halves.reduce((total, { off }) => total - off, 0n)
    const fitting = sum === gap.lacks ? halves : halves.filter(({ off }) => -off === gap.lacks).slice(0, 1)
    for (const { transactionId, off } of [...fitting, ...near.filter(({ off }) => off === 0n)]) {
      const lacking = { seq: gap.from, transactionId }
      found.push({ check: 'missing', ...lacking, expected: String(-off), seen: 'none' })
      if (off !== 0n) found.push({ check: 'zero-sum', ...lacking, expected: '0', seen: String(off) })
    }
  }
  return found
}

function explain({ check, seq, transactionId, expected, seen }: Fault<string>): string {
  switch (check) {
    case 'balance':
      return `the balance is ${seen}, and the entries sum to ${expected}: ${BigInt(seen) - BigInt(expected)} apart`
    case 'balance-sequence':
      return `the balance is at sequence ${seen}, and the last entry is ${expected}`
    case 'sequence':
      return `entry ${seq} comes where ${expected} should be`
    case 'chain':
      return `after entry ${seq} the balance should be ${expected}, and the entry says ${seen}: ${BigInt(expected) - BigInt(seen)} apart`
    case 'currency':
      return `entry ${seq} is in ${seen}, and the account is kept in ${expected}`
    case 'transaction':
      return `entry ${seq} belongs to transaction ${transactionId}, which is not there`
    case 'zero-sum':
      return `transaction ${transactionId} sums to ${seen}`
    case 'missing':
      return expected === '0'
        ? `transaction ${transactionId} has no entries; one of ${seq} or later may be gone from here`
        : `transaction ${transactionId} lacks an entry of ${expected}, as is gone from here at ${seq} or later`
    default:
      return `${check}: expected ${expected}, seen ${seen}`
  }
}
