import { beforeEach, describe, expect, test } from 'vitest'
import { planHash } from '../../src/domain/audit/canonical-json.ts'
import { findAccount } from '../../src/domain/ledger/account.ts'
import { accountFaults } from '../../src/domain/ledger/faults.ts'
import { freezeAccount, unfreezeAccount } from '../../src/domain/ledger/freeze.ts'
import {
  appliedReconciliation,
  planReconciliation,
  type Reconciliation,
} from '../../src/domain/ledger/reconcile.ts'
import { callWitness } from '../../src/domain/ledger/witness.ts'
import { useDatabase } from '../support/database.ts'
import { applyApproved, useLedger } from '../support/ledger.ts'

const database = useDatabase()
const ledger = useLedger(database)
const { post, tamper } = ledger

const account = (id = ledger.cash) => findAccount(database, id)
const noStore = () => Promise.reject(new Error('nothing is sealed here'))
const witness = async (id?: string) =>
  callWitness({ db: database.db, keyStore: noStore }, await account(id), undefined)
const plan = async (id?: string, given = {}) =>
  planReconciliation(database.db, await account(id), await witness(id), given)
const apply = async (made: Reconciliation, given = {}) =>
  applyApproved(database, made, await witness(made.account.id), given)
const balances = async () =>
  Object.fromEntries(
    (
      await database.db.query<{ code: string; balance: bigint }>(
        `select code, balance_minor as balance from billing.balance b join billing.account a on a.id = b.account_id
         where b.tenant_id = $1`,
        [ledger.tenantId],
      )
    ).map(({ code, balance }) => [code, balance]),
  )
const history = () =>
  database.db.query<{ transaction_id: string }>(
    'select * from billing.entry where tenant_id = $1 order by account_id, seq',
    [ledger.tenantId],
  )

/** Five posts: 100, 200, 400, 800, 1600 from revenue to cash. */
beforeEach(async () => {
  for (const amount of [100n, 200n, 400n, 800n, 1600n]) await post(amount)
})

const OF_CASH = 'account_id = $1'
interface Kind {
  what: string
  plant: string
  also?: string
  /** What the plan says, in parts. */
  says: RegExp[]
  adjustment: bigint
  /** Another than the 3100 that were posted. */
  balance?: bigint
}
const kinds: Kind[] = [
  {
    what: 'a balance edited',
    plant: `update billing.balance set balance_minor = 3600 where ${OF_CASH}`,
    says: [/its balance is 3600, and its entries sum to 3100/],
    adjustment: 0n,
  },
  {
    what: 'a balance and its sequence edited',
    plant: `update billing.balance set balance_minor = 3600, seq = 9 where ${OF_CASH}`,
    says: [/at sequence 9, and its last entry is 5/],
    adjustment: 0n,
  },
  {
    what: 'a balance set back',
    plant: `update billing.balance set balance_minor = 1500, seq = 4 where ${OF_CASH}`,
    says: [/at sequence 4, and its last entry is 5/],
    adjustment: 0n,
  },
  {
    what: 'an amount edited',
    plant: `update billing.entry set amount_minor = 40 where seq = 3 and ${OF_CASH}`,
    says: [/after entry 3 the balance should be 340, and the entry says 700/, /sums to -360/],
    adjustment: 360n,
  },
  {
    what: 'the last amount edited',
    plant: `update billing.entry set amount_minor = 1 where seq = 5 and ${OF_CASH}`,
    says: [/after entry 5 the balance should be 1501/],
    adjustment: 1599n,
  },
  {
    what: 'two edits that cancel',
    plant: `update billing.entry set amount_minor = amount_minor + case seq when 2 then 7 else -7 end
      where seq in (2, 4) and ${OF_CASH}`,
    says: [/after entry 2 the balance should be 307/, /after entry 4 the balance should be 1493/],
    adjustment: 0n,
  },
  {
    what: 'a running balance edited',
    plant: `update billing.entry set balance_minor = 1 where seq = 3 and ${OF_CASH}`,
    says: [
      /after entry 3 the balance should be 700, and the entry says 1/,
      /after entry 4 the balance should be 801/,
    ],
    adjustment: 0n,
  },
  {
    what: 'the last running balance edited',
    plant: `update billing.entry set balance_minor = 9999 where seq = 5 and ${OF_CASH}`,
    says: [/after entry 5 the balance should be 3100, and the entry says 9999/],
    adjustment: 0n,
  },
  {
    what: 'an entry deleted in the middle',
    plant: `delete from billing.entry where seq = 3 and ${OF_CASH}`,
    says: [
      /entry 4 comes where 3 should be/,
      /lacks an entry of 400, as may be gone from here at 3/,
      /sums to -400/,
    ],
    adjustment: 400n,
  },
  {
    what: 'the end cut off',
    plant: `delete from billing.entry where seq > 3 and ${OF_CASH}`,
    says: [/at sequence 5, and its last entry is 3/, /lacks an entry of 800/, /lacks an entry of 1600/],
    adjustment: 2400n,
  },
  {
    what: 'an entry put at the end',
    plant: `insert into billing.entry (tenant_id, account_id, seq, transaction_id, amount_minor, currency, balance_minor)
      select tenant_id, account_id, 6, transaction_id, 50, currency, balance_minor + 50 from billing.entry
      where seq = 5 and ${OF_CASH}`,
    says: [/at sequence 5, and its last entry is 6/, /sums to 50/],
    adjustment: -50n,
  },
  {
    what: 'a gap in the sequence',
    plant: `update billing.entry set seq = 7 where seq = 5 and ${OF_CASH}`,
    also: `update billing.balance set seq = 7 where ${OF_CASH}`,
    says: [/entry 7 comes where 5 should be/],
    adjustment: 0n,
  },
  {
    what: 'the currency of an entry edited',
    plant: `update billing.entry set currency = 'USD' where seq = 3 and ${OF_CASH}`,
    says: [/entry 3 is in USD, and the account is kept in AFN/],
    adjustment: 0n,
  },
  {
    what: 'a transaction that is not zero in sum',
    plant: `with t as (
        insert into billing.journal_transaction (tenant_id, kind, business_key)
        select tenant_id, 'payment', 'forged' from billing.balance where ${OF_CASH} returning id, tenant_id
      ), e as (
        insert into billing.entry (tenant_id, account_id, seq, transaction_id, amount_minor, currency, balance_minor)
        select tenant_id, $1, 6, id, 50, 'AFN', 3150 from t)
      update billing.balance set balance_minor = 3150, seq = 6 where ${OF_CASH}`,
    says: [/sums to 50/],
    adjustment: -50n,
  },
]

describe.each(kinds)('$what', ({ plant, also, says, adjustment }) => {
  test('is explained, mended by one transaction, and verifies with its history as it was found', async () => {
    await tamper(plant, [ledger.cash])
    if (also) await tamper(also, [ledger.cash])
    const found = await history()
    const made = await plan()
    const told = made.faults.map((fault) => fault.says).join('\n')
    for (const part of says) expect(told).toMatch(part)
    expect(made.adjustmentMinor).toBe(adjustment)

    const { transactionId, incidentId } = await apply(made)
    expect(await accountFaults(database.db, await account())).toEqual([])
    expect(await accountFaults(database.db, await account(ledger.revenue))).toEqual([])
    expect(await balances()).toMatchObject({ cash: 3100n, revenue: -3100n })
    expect((await history()).filter((entry) => entry.transaction_id !== transactionId)).toEqual(found)
    const [posted] = await database.db.query('select * from billing.journal_transaction where id = $1', [
      transactionId,
    ])
    expect(posted).toMatchObject({ kind: 'adjustment', incident_id: incidentId })

    await unfreezeAccount(database, await account(), await witness(), { by: 'laila', reason: 'reconciled' })
    await post(1n)
    expect(await accountFaults(database.db, await account())).toEqual([])
    expect(await balances()).toMatchObject({ cash: 3101n })
  })
})

test('an entry moved to another account is mended in both, and the suspense account ends at nothing', async () => {
  await post(5n)
  const other = await ledger.open('gateway:x')
  await post(9n, {
    entries: [
      { accountId: other, amountMinor: 9n, currency: 'AFN' },
      { accountId: ledger.revenue, amountMinor: -9n, currency: 'AFN' },
    ],
  })
  await tamper('update billing.entry set account_id = $2 where account_id = $1 and seq = 3', [
    ledger.cash,
    other,
  ])
  await apply(await plan())
  await apply(await plan(other))
  expect(await balances()).toMatchObject({ cash: 3105n, 'gateway:x': 9n, 'suspense:AFN': 0n })
  for (const id of [ledger.cash, other, ledger.revenue]) expect((await plan(id)).faults).toEqual([])
})

test('a transaction that another account has spoilt costs this one nothing', async () => {
  await tamper('delete from billing.entry where seq = 3 and account_id = $1', [ledger.revenue])
  await freezeAccount(database, await account(ledger.revenue), { reason: 'drift' })
  await freezeAccount(database, await account(), { reason: 'drift' })
  const made = await plan()
  expect(made).toMatchObject({ adjustmentMinor: 0n, faults: [{ check: 'zero-sum', seen: '400' }] })
  await apply(made)
  await apply(await plan(ledger.revenue))
  expect(await balances()).toMatchObject({ cash: 3100n, revenue: -3100n })
  for (const id of [ledger.cash, ledger.revenue]) expect((await plan(id)).faults).toEqual([])
})

test('what was noted by hand, without two people, hides nothing', async () => {
  await tamper('update billing.entry set amount_minor = 40 where seq = 3 and account_id = $1', [ledger.cash])
  const found = await accountFaults(database.db, await account())
  for (const { check, seq, transactionId, expected, seen } of found) {
    await tamper(
      `insert into billing.mended_fault (tenant_id, account_id, transaction_id, check_name, seq, of_transaction, expected, seen)
       select tenant_id, account_id, transaction_id, $2, $3, $4, $5, $6 from billing.entry where account_id = $1 and seq = 1`,
      [ledger.cash, check, seq, transactionId, expected, seen],
    )
  }
  expect(await accountFaults(database.db, await account())).toEqual(found)
})

test('the same fault anew is found anew', async () => {
  const edit = (to: number) =>
    tamper(`update billing.entry set amount_minor = ${to} where seq = 3 and account_id = $1`, [ledger.cash])
  await edit(40)
  await apply(await plan())
  await edit(41)
  expect((await plan()).faults).not.toEqual([])
})

test('a plan is applied once, and not when the account has moved', async () => {
  await tamper('update billing.balance set balance_minor = 1 where account_id = $1', [ledger.cash])
  const stale = await plan()
  await tamper('update billing.balance set balance_minor = 2 where account_id = $1', [ledger.cash])
  const before = await history()
  await expect(apply(stale)).rejects.toMatchObject({ code: 'PLAN_STALE' })
  expect(await history()).toEqual(before)

  const fresh = await plan()
  const [one, two] = await Promise.all([apply(fresh), apply(fresh)])
  expect(one).toEqual(two)
  expect(await apply(fresh)).toEqual(one)
  expect(await appliedReconciliation(database.db, await account(), planHash(fresh))).toEqual(one)
  expect(await balances()).toMatchObject({ cash: 3100n })
})

test('what the ledger cannot tell is given', async () => {
  await tamper('update billing.balance set balance_minor = 1 where account_id = $1', [ledger.cash])
  const given = { balanceMinor: 3000n }
  const made = await plan(undefined, given)
  expect(made).toMatchObject({ postedMinor: 3000n, adjustmentMinor: -100n, because: 'it was given' })
  await apply(made, given)
  expect(await balances()).toMatchObject({ cash: 3000n, 'suspense:AFN': 100n })
})

test('nobody mends an account that another incident froze, and no service mends at all', async () => {
  await freezeAccount(database, await account(), { reason: 'drift' })
  const mend = `select billing.mend($1, $2, gen_random_uuid(), 'k', 5, $3, 'AFN', 5, '[]')`
  const values = [ledger.tenantId, ledger.cash, ledger.revenue]
  const asTabib = database.db.transaction(async (tx) => {
    await tx.query(`select set_config('app.tenant_id', $1, true)`, [ledger.tenantId])
    await tx.query(mend, values)
  })
  await expect(asTabib).rejects.toThrow(/is not frozen by incident/)
  await expect(ledger.service((tx) => tx.query(mend, values))).rejects.toMatchObject({
    code: 'NOT_AUTHORISED',
  })
})
