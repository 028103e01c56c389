import type { Database, Queryable, Transaction } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { planHash } from '../audit/canonical-json.ts'
import { type Account, openAccount } from './account.ts'
import { accountFaults, approvedMenders, type Fault, mendedBy, type ToldFault } from './faults.ts'
import { DRIFT_RUNBOOK, freezeAccount, freezeOf } from './freeze.ts'
import { ledgerRefusal } from './post.ts'
import type { SealedAccount } from './seal.ts'
import type { Witness } from './witness.ts'

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
  faults: ToldFault[]
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
  witness: Witness,
  { balanceMinor: given }: { balanceMinor?: bigint | undefined } = {},
): Promise<Reconciliation> {
  const figures = await readFigures(db, account)
  const broken = await withMissing(db, account, figures, await witness.faults(db), witness.sealed)
  const { balanceMinor, entriesMinor, seq, lastSeq } = figures
  const { postedMinor, because } =
    given === undefined
      ? await whatWasPosted(db, account, figures, broken, witness)
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
    continueAfter: [
      lastSeq,
      witness.sealed?.seq ?? 0n,
      ...(isTruncated(figures, broken) ? [seq] : []),
    ].reduce((a, b) => (a > b ? a : b)),
    faults: broken,
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
  witness: Witness,
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
    const now = planHash(await planReconciliation(tx, account, witness, { balanceMinor }))
    if (now !== hash) {
      throw new TabibError('PLAN_STALE', `the plan is now ${now}, not ${hash}: the account has moved`, {
        suggestions: [`tabib ledger reconcile ${id} --dry-run`],
      })
    }
    const againstId = against && (await openAccount(tx, { tenantId, code: against, currency }))
    const mendKnowing = (faults: ToldFault[]) =>
      mend(tx, [
        ...[tenantId, id, incidentId, businessKey(hash), adjustmentMinor, againstId, currency, continueAfter],
        JSON.stringify(faults, (_, value) => (typeof value === 'bigint' ? value.toString() : value)),
      ])
    await tx.query('savepoint mending')
    let transactionId = await mendKnowing(plan.faults)
    let left = await witness.faults(tx)
    // Where sealed entries are gone from the end, their blocks can be compared only now that the account goes on after.
    if (left.length > 0 && left.every(({ check }) => check === 'ledger/sealed-entries') && isCut(plan)) {
      await tx.query('rollback to savepoint mending')
      transactionId = await mendKnowing([...plan.faults, ...left])
      left = await witness.faults(tx)
    }
    if (left.length > 0) {
      throw new TabibError(
        'LEDGER_DRIFT',
        `account ${id} would not verify afterwards: ${left.map(({ says }) => says).join('; ')}`,
        { suggestions: [`tabib ledger reconcile ${id} --dry-run`], ref: DRIFT_RUNBOOK },
      )
    }
    return { transactionId, incidentId }
  })
}

const isCut = ({ faults }: Reconciliation) => faults.some(({ check }) => check === 'ledger/sealed-tail')

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
  // An amount that was edited may take the sum beyond 64 bits.
  const [figures] = await db.query<Omit<Figures, 'entriesMinor'> & { entriesMinor: string }>(
    `select coalesce(b.balance_minor, 0) as "balanceMinor", coalesce(b.seq, 0) as seq, e.total::text as "entriesMinor",
       coalesce(l.seq, 0) as "lastSeq", coalesce(l.balance_minor, 0) as "lastMinor", r.balance_minor as "atSeqMinor"
     from (select coalesce(sum(amount_minor), 0) as total from billing.entry where tenant_id = $1 and account_id = $2) e
     left join billing.balance b on b.tenant_id = $1 and b.account_id = $2
     left join lateral (
       select seq, balance_minor from billing.entry where tenant_id = $1 and account_id = $2 order by seq desc limit 1) l on true
     left join billing.entry r on r.tenant_id = $1 and r.account_id = $2 and r.seq = b.seq`,
    [tenantId, id],
  )
  return { ...figures!, entriesMinor: BigInt(figures!.entriesMinor) }
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
  { sealed }: Witness,
): Promise<Posted> {
  const { balanceMinor, seq, entriesMinor, lastSeq, lastMinor, atSeqMinor } = figures
  if (
    sealed &&
    faults.some(({ check }) => check.startsWith('ledger/sealed-')) &&
    verifiesAfter(sealed.seq, seq, faults)
  ) {
    const since = await sumAfter(db, account, sealed.seq)
    const because = `it was sealed at ${sealed.balanceMinor} after entry ${sealed.seq}, and ${since} was posted since`
    return { postedMinor: sealed.balanceMinor + since, because }
  }
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
  const foreign = faults.filter(({ check, seen }) => check === 'transaction' && seen !== 'none')
  const off = [...unbalanced.map(({ seen }) => BigInt(seen)), await amountOf(db, account, foreign)].reduce(
    (total, one) => total + one,
  )
  if (off === 0n) return { postedMinor, because }
  const which = [
    ...unbalanced.map(({ transactionId }) => `transaction ${transactionId} is out of balance by`),
    ...foreign.map(({ seq }) => `entry ${seq} has, which was not written with its transaction`),
  ].join(' and ')
  return { postedMinor: postedMinor - off, because: `${because}, less the ${off} that ${which}` }
}

async function amountOf(
  db: Queryable,
  { tenantId, id }: Account,
  faults: readonly Fault<string>[],
): Promise<bigint> {
  const [row] = await db.query<{ total: bigint }>(
    `select coalesce(sum(amount_minor), 0)::bigint as total from billing.entry
     where tenant_id = $1 and account_id = $2 and seq = any($3)`,
    [tenantId, id, faults.map(({ seq }) => seq)],
  )
  return row!.total
}

/** Whether all that is wrong is with what the seal knows: then the seal decides. */
const verifiesAfter = (sealedSeq: bigint, balanceSeq: bigint, faults: readonly Fault<string>[]): boolean =>
  !faults.some(
    ({ check, seq }) =>
      (seq !== null && seq > sealedSeq) || (check === 'balance-sequence' && balanceSeq > sealedSeq),
  )

async function sumAfter(db: Queryable, { tenantId, id }: Account, seq: bigint): Promise<bigint> {
  const [row] = await db.query<{ total: bigint }>(
    `select coalesce(sum(amount_minor), 0)::bigint as total from billing.entry
     where tenant_id = $1 and account_id = $2 and seq > $3`,
    [tenantId, id, seq],
  )
  return row!.total
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
  for (const other of others) {
    const theirs = await accountFaults(db, other)
    elsewhere.push(...(await withMissing(db, other, await readFigures(db, other), theirs)))
  }
  return unexplained.filter((fault) => !tells(elsewhere, fault))
}

async function withMissing<F extends Fault<string>>(
  db: Queryable,
  account: Account,
  figures: Figures,
  faults: F[],
  sealed?: SealedAccount,
): Promise<(F | ToldFault)[]> {
  return [...faults, ...(await missingLegs(db, account, faults, figures, sealed))]
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
  figures: Figures,
  sealed: SealedAccount | undefined,
): Promise<ToldFault[]> {
  const found: ToldFault[] = []
  for (const fault of faults) {
    const gap = gapOf(fault, faults, figures, sealed)
    if (!gap) continue
    const rows = await db.query<{ transactionId: string; off: string }>(
      `select t.id as "transactionId", coalesce(sum(e.amount_minor) filter (where e.currency = $5), 0)::text as off
       from billing.journal_transaction t left join billing.entry e on e.tenant_id = t.tenant_id and e.transaction_id = t.id
       where t.tenant_id = $1
         and t.posted_at >= coalesce((select max(posted_at) from billing.entry
           where tenant_id = $1 and account_id = $2 and seq < $3), '-infinity') - interval '1 minute'
         and t.posted_at <= coalesce((select posted_at from billing.entry
           where tenant_id = $1 and account_id = $2 and seq = $4), 'infinity') + interval '1 minute'
         and not exists (select from ${mendedBy(6)}
           where m.tenant_id = $1 and m.of_transaction = t.id and m.check_name in ('zero-sum', 'missing'))
       group by t.id
       having count(*) filter (where e.account_id = $2) = 0
         and (count(e.seq) = 0 or sum(e.amount_minor) filter (where e.currency = $5) <> 0)
       order by t.id`,
      [tenantId, id, gap.from, gap.to, currency, await approvedMenders(db)],
    )
    const near = rows.map(({ transactionId, off }) => ({ transactionId, off: BigInt(off) }))
    const halves = near.filter(({ off }) => off !== 0n)
    const sum = halves.reduce((total, { off }) => total - off, 0n)
    const fitting = sum === gap.lacks ? halves : halves.filter(({ off }) => -off === gap.lacks).slice(0, 1)
    for (const { transactionId, off } of [...fitting, ...near.filter(({ off }) => off === 0n)]) {
      if (found.some((one) => one.transactionId === transactionId)) continue
      const lacking = { seq: gap.from, transactionId }
      const what = off === 0n ? 'has no entries' : `lacks an entry of ${-off}`
      const says = `transaction ${transactionId} ${what}, as may be gone from here at ${gap.from}`
      found.push({ check: 'missing', ...lacking, expected: String(-off), seen: 'none', says })
      if (off === 0n) continue
      found.push({
        ...{ check: 'zero-sum', ...lacking, expected: '0', seen: String(off) },
        says: `transaction ${transactionId} sums to ${off}`,
      })
    }
  }
  return found
}

/** Where entries are gone: from which number on, before which entry (null: the end), and what they came to. */
function gapOf(
  { check, seq, expected }: Fault<string>,
  faults: readonly Fault<string>[],
  { balanceMinor, lastMinor }: Figures,
  sealed: SealedAccount | undefined,
): { from: bigint; to: bigint | null; lacks: bigint } | undefined {
  switch (check) {
    case 'sequence': {
      const broken = faults.find((one) => one.check === 'chain' && one.seq === seq)
      const lacks = broken ? BigInt(broken.seen) - BigInt(broken.expected) : 0n
      return { from: BigInt(expected), to: seq, lacks }
    }
    case 'balance-sequence':
      return { from: BigInt(expected) + 1n, to: null, lacks: balanceMinor - lastMinor }
    case 'ledger/sealed-tail':
      return { from: seq!, to: null, lacks: (sealed?.balanceMinor ?? lastMinor) - lastMinor }
  }
  return undefined
}
