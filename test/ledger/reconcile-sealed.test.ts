import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { rotateKeys } from '../../src/domain/keys/rotate.ts'
import { findAccount } from '../../src/domain/ledger/account.ts'
import { frozenAccounts, unfreezeAccount } from '../../src/domain/ledger/freeze.ts'
import { planReconciliation } from '../../src/domain/ledger/reconcile.ts'
import { SEAL_KEY_POLICY, SEAL_PURPOSE } from '../../src/domain/ledger/seal.ts'
import { stopDrift } from '../../src/domain/ledger/stop-drift.ts'
import { verifyLedger } from '../../src/domain/ledger/verify.ts'
import { callWitness } from '../../src/domain/ledger/witness.ts'
import { useDatabase } from '../support/database.ts'
import { useKeyStore } from '../support/key-store.ts'
import { applyApproved, useLedger } from '../support/ledger.ts'

const database = useDatabase()
const keys = useKeyStore()
const ledger = useLedger(database)
const { post, tamper } = ledger

const app = () => ({ db: database.db, keyStore: async () => keys.store })
let folder: string
let seals: number | null

beforeAll(async () => {
  const nats = { notify: () => {}, ping: async () => {} }
  await rotateKeys(
    { ...app(), nats: nats as never },
    { purpose: SEAL_PURPOSE, algorithm: 'ES256', policy: SEAL_KEY_POLICY, by: 'test' },
  )
})

/** Sealed at 100 + 200 + 400 + 800 in cash; 1600 was posted since. */
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tabib-seals-'))
  await database.owner.query('delete from tabib.ledger_seal')
  for (const amount of [100n, 200n, 400n, 800n]) await post(amount)
  expect(await verify()).toEqual([])
  await post(1600n)
})
afterEach(() => rm(folder, { recursive: true }))

const verify = async () => {
  const { findings, facts } = await verifyLedger(app(), { full: true }, { folder })
  seals = facts.writtenSeal
  await stopDrift(database, findings)
  return findings.map(({ object, message }) => `${object}: ${message}`)
}
const balances = () =>
  database.db.query(
    `select code, balance_minor::text as balance from billing.balance b join billing.account a on a.id = b.account_id
     where b.tenant_id = $1 and code in ('cash', 'revenue') order by code`,
    [ledger.tenantId],
  )
const OF = 'account_id = $1 and seq'
/** Moves what the entries after an edited one, and the balance, say along with it. */
const carry = async (account: string, after: number, by: number) => {
  await tamper(`update billing.entry set balance_minor = balance_minor + ${by} where ${OF} >= ${after}`, [
    account,
  ])
  await tamper(`update billing.balance set balance_minor = balance_minor + ${by} where account_id = $1`, [
    account,
  ])
}

const kinds: [what: string, plant: () => Promise<unknown>][] = [
  [
    'an amount edited',
    () => tamper(`update billing.entry set amount_minor = 40 where ${OF} = 3`, [ledger.cash]),
  ],
  [
    'an entry deleted in the middle',
    () => tamper(`delete from billing.entry where ${OF} = 2`, [ledger.cash]),
  ],
  [
    'the sealed end cut off, and the balance with it',
    async () => {
      await tamper(`delete from billing.entry where ${OF} > 2`, [ledger.cash])
      await tamper('update billing.balance set balance_minor = 300, seq = 2 where account_id = $1', [
        ledger.cash,
      ])
      // What no seal has seen is gone for good.
      await tamper(`delete from billing.entry where ${OF} > 4`, [ledger.revenue])
      await tamper('update billing.balance set balance_minor = -1500, seq = 4 where account_id = $1', [
        ledger.revenue,
      ])
      await tamper(
        'delete from billing.journal_transaction t where not exists (select from billing.entry e where e.transaction_id = t.id) and tenant_id = $1',
        [ledger.tenantId],
      )
    },
  ],
  [
    'an entry put there for a sealed transaction',
    async () => {
      await tamper(
        `insert into billing.entry (tenant_id, account_id, seq, transaction_id, amount_minor, currency, balance_minor)
         select tenant_id, account_id, 6, transaction_id, 50, currency, 3150 from billing.entry where ${OF} = 1`,
        [ledger.cash],
      )
      await tamper('update billing.balance set balance_minor = 3150, seq = 6 where account_id = $1', [
        ledger.cash,
      ])
    },
  ],
  [
    'history rewritten consistently in both accounts',
    async () => {
      await tamper(`update billing.entry set amount_minor = amount_minor + 50 where ${OF} = 3`, [ledger.cash])
      await carry(ledger.cash, 3, 50)
      await tamper(`update billing.entry set amount_minor = amount_minor - 50 where ${OF} = 3`, [
        ledger.revenue,
      ])
      await carry(ledger.revenue, 3, -50)
    },
  ],
]

describe.each(kinds)('%s', (what, plant) => {
  test('is found against the seal, mended, sealed as it is then, and found no more', async () => {
    await plant()
    expect(await verify()).not.toEqual([])
    for (const { accountId } of await frozenAccounts(database)) {
      const account = await findAccount(database, accountId)
      const witness = await callWitness(app(), account, folder)
      const plan = await planReconciliation(database.db, account, witness)
      await applyApproved(database, plan, witness)
    }
    for (const { accountId } of await frozenAccounts(database)) {
      const account = await findAccount(database, accountId)
      const witness = await callWitness(app(), account, folder)
      const by = { by: 'laila', reason: 'reconciled' }
      expect(await unfreezeAccount(database, account, witness, by)).toMatchObject({ unfrozen: true })
    }
    const lost = what.includes('cut off') ? 1500 : 3100
    expect(await balances()).toEqual([
      { code: 'cash', balance: `${lost}` },
      { code: 'revenue', balance: `${-lost}` },
    ])
    expect(await verify()).toEqual([])
    await post(5n)
    expect(await verify()).toEqual([])
    expect(await verify()).toEqual([])
    expect(await frozenAccounts(database)).toEqual([])
    // The first, one that leaves out what was found unless it belongs nowhere, and one for each of the three since.
    expect(seals).toBe(what.includes('put there') ? 4 : 5)
  })
})
