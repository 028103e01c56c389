import { randomUUID } from 'node:crypto'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createApproval } from '../../src/domain/approval/create.ts'
import { addOperator } from '../../src/domain/approval/operator.ts'
import { useDatabase } from '../support/database.ts'
import { useKeyStore } from '../support/key-store.ts'
import { useLedger } from '../support/ledger.ts'
import { runLine } from '../support/line.ts'

const database = useDatabase()
const keys = useKeyStore()
const ledger = useLedger(database)
let folder: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tabib-ledger-'))
  for (const name of ['ahmad@ops', 'maryam@ops']) {
    const { publicJwk } = await keys.store.generate('ES256')
    await addOperator(database, { name, publicJwk, by: 'root' })
  }
})
afterAll(() => rm(folder, { recursive: true }))

const run = (...argv: string[]) =>
  runLine(['ledger', ...argv], {
    TABIB_DATABASE_URL: database.url('tabib'),
    TABIB_ACTOR: 'ahmad@ops',
    ...keys.env,
  })
const tabib = async (...argv: string[]) => {
  const { stdout, exitCode } = await run(...argv, '--json')
  const { error, result } = JSON.parse(stdout)
  return { exitCode, code: error?.code, message: error?.message, result }
}

/** The second person's consent, in a file. */
async function approve(planHash: string, lifetimeMs = 60_000): Promise<string> {
  const { approval } = await createApproval(
    { db: database.db, keyStore: async () => keys.store },
    { operator: 'maryam@ops', planHash, context: 'env', reason: 'read it', lifetimeMs },
  )
  const file = join(folder, `${randomUUID()}.jws`)
  await writeFile(file, approval)
  return file
}

const everything = () =>
  database.db.query(
    `select (select count(*) from billing.entry) as entries, (select count(*) from billing.mended_fault) as mended,
       (select string_agg(concat_ws(' ', account_id, balance_minor, seq, frozen_at is null), ',' order by account_id)
        from billing.balance) as balances`,
  )

test('frozen, explained, mended by two people, thawed; and nothing changes on bad input', {
  timeout: 120_000,
}, async () => {
  for (const amount of [100n, 200n]) await ledger.post(amount)
  await ledger.tamper('update billing.entry set amount_minor = 250 where seq = 2 and account_id = $1', [
    ledger.cash,
  ])
  const named = ['--confirm', ledger.cash, '--reason', 'an amount was edited']

  expect(await tabib('freeze', ledger.cash, '--reason', 'drift')).toMatchObject({
    exitCode: 5,
    code: 'CONFIRMATION_REQUIRED',
  })
  const frozen = await tabib('freeze', ledger.cash, '--reason', 'drift', '--yes')
  expect(frozen).toMatchObject({ exitCode: 0, result: { frozen: true } })
  expect(await tabib('unfreeze', ledger.cash, ...named)).toMatchObject({ exitCode: 5, code: 'LEDGER_DRIFT' })

  const screen = await run('reconcile', '--frozen', '--dry-run')
  expect(screen.exitCode).toBe(0)
  expect(screen.stdout).toContain('after entry 2 the balance should be 350, and the entry says 300')
  const { planHash, plan } = (await tabib('reconcile', ledger.cash, '--dry-run')).result
  expect(plan).toMatchObject({
    balanceMinor: '300',
    entriesMinor: '350',
    adjustmentMinor: '-50',
    against: 'suspense:AFN',
  })
  const before = await everything()

  const apply = (...argv: string[]) => tabib('reconcile', ledger.cash, '--apply', planHash, ...named, ...argv)
  const good = await approve(planHash)
  const forged = join(folder, 'forged.jws')
  await writeFile(forged, (await readFile(good, 'utf8')).replace(/\.[^.]*$/, '.AAAA'))
  const wrong: [argv: string[], exitCode: number, code: string, says?: RegExp][] = [
    [['reconcile', ledger.cash, '--apply', planHash, ...named], 5, 'APPROVAL_REQUIRED'],
    [['reconcile', ledger.cash, '--apply', planHash, '--approval', good], 5, 'CONFIRMATION_REQUIRED'],
    [
      ['reconcile', ledger.cash, '--apply', planHash, ...named, '--approval', forged],
      4,
      'APPROVAL_INVALID',
      /signature does not hold/,
    ],
    [
      ['reconcile', ledger.cash, '--apply', planHash, ...named, '--approval', await approve('0'.repeat(64))],
      4,
      'APPROVAL_INVALID',
      /it is for plan 0000/,
    ],
    [
      ['reconcile', ledger.cash, '--apply', planHash, ...named, '--approval', await approve(planHash, 0)],
      4,
      'APPROVAL_INVALID',
      /its time ended/,
    ],
    [['reconcile', ledger.cash, '--apply', '0'.repeat(64), ...named, '--approval', good], 6, 'PLAN_STALE'],
    // Another figure is another plan.
    [
      ['reconcile', ledger.cash, '--balance', '1', '--apply', planHash, ...named, '--approval', good],
      6,
      'PLAN_STALE',
    ],
  ]
  for (const [argv, exitCode, code, says = /./] of wrong) {
    const message = expect.stringMatching(says)
    expect(await tabib(...argv), argv.join(' ')).toMatchObject({ exitCode, code, message })
  }
  expect(await everything()).toEqual(before)

  const done = await apply('--approval', good)
  expect(done).toMatchObject({
    exitCode: 0,
    result: { incidentId: frozen.result.incidentId, unfrozen: false, again: false },
  })
  // Whoever was cut off types it again.
  expect(await apply('--approval', good)).toMatchObject({
    exitCode: 0,
    result: { transactionId: done.result.transactionId, again: true, frozen: true },
  })
  expect(await tabib('unfreeze', ledger.cash, ...named)).toMatchObject({
    exitCode: 0,
    result: { unfrozen: true },
  })
  await ledger.post(1n)
  const trail = await database.db.query(
    `select record->>'approver' as approver, record->>'incident' as incident from tabib.audit
     where record->>'command' = 'ledger reconcile' and record->>'outcome' = 'ok'`,
  )
  expect(trail).toEqual([{ approver: 'maryam@ops', incident: frozen.result.incidentId }])
})

test.each([
  [['freeze', 'nonsense', '--yes', '--reason', 'x'], 2, 'ACCOUNT_UNKNOWN'],
  [['unfreeze', '019a8f2e-7c00-7000-8000-000000000001'], 2, 'ACCOUNT_UNKNOWN'],
  [['reconcile', '019a8f2e-7c00-7000-8000-000000000001', '--dry-run'], 2, 'ACCOUNT_UNKNOWN'],
  [['reconcile', '--dry-run'], 2, 'USAGE'],
  [['reconcile', 'CASH', '--frozen'], 2, 'USAGE'],
  [['reconcile', '--frozen', '--dry-run'], 5, 'NOT_NEEDED'],
  [['unfreeze', 'CASH', '--confirm', 'CASH', '--reason', 'x'], 5, 'NOT_NEEDED'],
  [['reconcile', 'CASH', '--balance', '12.50', '--dry-run'], 2, 'AMOUNT_INVALID'],
  [['reconcile', 'CASH', '--balance', '9223372036854775808', '--dry-run'], 2, 'AMOUNT_INVALID'],
])('%j ends with %i, %s', async (argv, exitCode, code) => {
  const words = argv.map((word) => (word === 'CASH' ? ledger.cash : word))
  expect(await tabib(...words)).toMatchObject({ exitCode, code })
})
