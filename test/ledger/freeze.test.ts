import { expect, test } from 'vitest'
import { openDatabase } from '../../src/adapters/postgres/client.ts'
import { freezeAccount, freezeOf, unfreezeAccount } from '../../src/domain/ledger/freeze.ts'
import { postTransaction } from '../../src/domain/ledger/post.ts'
import { callWitness } from '../../src/domain/ledger/witness.ts'
import { TabibError } from '../../src/errors.ts'
import { useDatabase } from '../support/database.ts'
import { useLedger } from '../support/ledger.ts'

const database = useDatabase()
const ledger = useLedger(database)
const { open, post } = ledger
const noStore = () => Promise.reject(new Error('nothing is sealed here'))

const cash = () => ({ tenantId: ledger.tenantId, id: ledger.cash })
const freeze = (reason = 'drift') => freezeAccount(database, cash(), { reason })
const unfreeze = async () => {
  const witness = await callWitness({ db: database.db, keyStore: noStore }, cash(), undefined)
  return unfreezeAccount(database, cash(), witness, { by: 'laila', reason: 'mended' })
}
const between = (from: string, to: string, amountMinor = 5n) => ({
  entries: [
    { accountId: to, amountMinor, currency: 'AFN' },
    { accountId: from, amountMinor: -amountMinor, currency: 'AFN' },
  ],
})
const incidents = () =>
  database.db.query(
    `select severity, mode, state, occurrences, resolved_by from tabib.incident where dedupe_key = $1 order by opened_at`,
    [`billing/FM-07:${ledger.cash}`],
  )

test('no post is accepted after the freeze commits, whoever posts at that moment; the other accounts go on', async () => {
  await using crowd = openDatabase({ url: database.url('service'), maxConnections: 8 })
  const other = await open('gateway:x')
  const accepted = { before: 0, after: 0, elsewhere: 0 }
  let frozen = false
  const poster = async (): Promise<string> => {
    for (let n = 0; ; n++) {
      const wasFrozen = frozen
      const amount = n % 2 === 0 ? 7n : -7n
      try {
        await crowd.transaction(async (tx) => {
          await tx.query(`select set_config('app.tenant_id', $1, true)`, [ledger.tenantId])
          await postTransaction(tx, ledger.transaction(amount))
        })
        accepted[wasFrozen ? 'after' : 'before'] += 1
      } catch (error) {
        if (!(error instanceof TabibError)) throw error
        return error.code
      }
    }
  }
  const others = async () => {
    while (!frozen || accepted.elsewhere < 20) {
      await post(3n, between(ledger.revenue, other))
      if (frozen) accepted.elsewhere += 1
    }
  }
  const posting = [...Array.from({ length: 6 }, poster), others()]
  while (accepted.before < 60) await new Promise(setImmediate)
  await freeze()
  frozen = true
  const seen = () =>
    database.db.query('select count(*)::int as n from billing.entry where account_id = $1', [ledger.cash])
  const atFreeze = await seen()
  const ends = await Promise.all(posting)
  expect(ends.slice(0, 6)).toEqual(Array(6).fill('ACCOUNT_FROZEN'))
  expect(await seen()).toEqual(atFreeze)
  expect(accepted).toMatchObject({ after: 0, elsewhere: 20 })
})

test('a freeze waits for a post under way, and takes its entry as posted', async () => {
  const doing = await ledger.service(async (tx) => {
    await postTransaction(tx, ledger.transaction(10n))
    const freezing = freeze()
    await waiting(1)
    return { freezing }
  })
  expect(await doing.freezing).toMatchObject({ frozen: true })
  await expect(post(20n)).rejects.toMatchObject({ code: 'ACCOUNT_FROZEN' })
  expect(await unfreeze()).toMatchObject({ unfrozen: true })
})

/** Resolves once so many connections of this database wait for a lock. */
async function waiting(count: number): Promise<void> {
  const sql = `select count(distinct pid)::int as n from pg_locks join pg_stat_activity using (pid)
    where datname = $1 and not granted`
  for (;;) {
    const [{ n }] = (await database.db.query(sql, [database.name])) as [{ n: number }]
    if (n >= count) return
  }
}

test('an account pages once, however often it is frozen, and keeps its first reason', async () => {
  const both = await Promise.all([freeze('first'), freeze('first')])
  expect(both.map(({ frozen }) => frozen).sort()).toEqual([false, true])
  expect(await freeze('second')).toEqual({ incidentId: both[0]!.incidentId, frozen: false })
  expect(await freezeOf(database.db, cash())).toMatchObject({ reason: 'first' })
  expect(await incidents()).toMatchObject([
    { severity: 'page', mode: 'billing/FM-07', state: 'open', occurrences: 3 },
  ])
})

test('unfreezing resolves the incident, and a later freeze pages anew', async () => {
  await post(1n)
  await freeze()
  expect(await unfreeze()).toMatchObject({ unfrozen: true })
  expect(await unfreeze()).toMatchObject({ unfrozen: false })
  await post(1n)
  expect(await incidents()).toMatchObject([{ state: 'resolved', resolved_by: 'laila' }])
  await freeze()
  expect(await incidents()).toMatchObject([{ state: 'resolved' }, { state: 'open' }])
})

test.each([
  ['its balance', 'its balance is', 'update billing.balance set balance_minor = balance_minor + 1'],
  [
    'an amount',
    'after entry 2 the balance should be 10',
    'update billing.entry set amount_minor = 9 where seq = 2 and',
  ],
  ['its last entry', 'its balance is', 'delete from billing.entry where seq = 3 and'],
  [
    'an entry in the middle',
    'after entry 3 the balance should be 2',
    'delete from billing.entry where seq = 2 and',
  ],
])('while %s is wrong it stays frozen, and the first fault is named', async (_, fault, statement) => {
  for (let n = 0; n < 3; n++) await post(1n)
  await freeze()
  await ledger.tamper(`${statement}${/ and$/.test(statement) ? '' : ' where'} account_id = $1`, [ledger.cash])
  await expect(unfreeze()).rejects.toMatchObject({ code: 'LEDGER_DRIFT' })
  expect(await freezeOf(database.db, cash())).toBeDefined()
  const refusal = await unfreeze().catch((error: TabibError) => error)
  expect((refusal as TabibError).message).toContain(fault)
})
