import { randomUUID } from 'node:crypto'
import { beforeEach, describe, expect, test } from 'vitest'
import { openAccount } from '../../src/domain/ledger/account.ts'
import { examineDocuments } from '../../src/domain/ledger/documents.ts'
import { postTransaction } from '../../src/domain/ledger/post.ts'
import { pay } from '../../src/domain/payments/pay.ts'
import { decideRefund, payRefund, requestRefund } from '../../src/domain/payments/refund.ts'
import { asTenant } from '../../src/domain/sessions/tenant.ts'
import { useDatabase } from '../support/database.ts'
import { liveTenant } from '../support/tenant.ts'

const database = useDatabase()
let tenantId: string
let patientId: string
let accountId: string

const call = (key: string) => ({
  service: 'billing' as const,
  tenantId,
  route: 'POST /payments',
  key,
  fingerprint: Buffer.from(key),
})
const payment = async (amountMinor = 20_000n) => {
  const { body } = await asTenant(database.service, tenantId, (tx) =>
    pay(tx, call(randomUUID()), { accountId, amountMinor, currency: 'AFN', method: 'cash' }),
  )
  return JSON.parse(body) as { id: string; transactionId: string }
}
const posting = (kind: string, businessKey: string, amountMinor: bigint, reverses?: string) =>
  asTenant(database.service, tenantId, async (tx) => {
    const revenue = await openAccount(tx, { tenantId, code: 'revenue', currency: 'AFN' })
    const entries = [
      { accountId, amountMinor, currency: 'AFN' },
      { accountId: revenue, amountMinor: -amountMinor, currency: 'AFN' },
    ]
    return (await postTransaction(tx, { tenantId, kind, businessKey, entries, reverses })).id
  })
const charge = async (amountMinor = 50_000n) => {
  const id = randomUUID()
  const transactionId = amountMinor === 0n ? null : await posting('charge', `charge:${id}`, amountMinor)
  await asTenant(database.service, tenantId, (tx) =>
    tx.query(
      `insert into billing.charge (id, tenant_id, patient_id, account_id, code, amount_minor, currency, transaction_id)
       values ($1, $2, $3, $4, 'ECG', $5, 'AFN', $6)`,
      [id, tenantId, patientId, accountId, amountMinor, transactionId],
    ),
  )
  return { id, transactionId }
}
const refund = async (amountMinor = 5_000n) =>
  asTenant(database.service, tenantId, async (tx) => {
    const asked = { tenantId, patientId, amountMinor, currency: 'AFN', requestedBy: 'zahra' }
    const { id } = await requestRefund(tx, asked)
    await decideRefund(tx, { tenantId, refundId: id, by: 'farid', approve: true })
    return id
  })
const tamper = (sql: string, values: unknown[]) =>
  database.owner.transaction(async (tx) => {
    const tables = ['charge', 'payment', 'refund', 'account', 'balance']
    for (const table of tables) await tx.query(`alter table billing.${table} no force row level security`)
    const rows = await tx.query(`${sql} returning 1`, values)
    if (rows.length === 0) throw new Error(`changed nothing: ${sql}`)
    for (const table of tables) await tx.query(`alter table billing.${table} force row level security`)
  })
const found = async (more = {}) =>
  (await examineDocuments(database.db, { tenantId, ...more }, undefined)).map(
    ({ severity, object, message }) => `${severity} ${object}: ${message}`,
  )

beforeEach(async () => {
  tenantId = await liveTenant(database.db)
  patientId = randomUUID()
  accountId = await asTenant(database.service, tenantId, (tx) =>
    openAccount(tx, { tenantId, code: `receivable:${patientId}`, currency: 'AFN' }),
  )
})

test('what was charged, paid, paid back and reversed is what was posted', async () => {
  await charge(0n)
  await payment()
  const { transactionId } = await charge()
  await posting('reversal', `reversal:${transactionId}`, -50_000n, transactionId!)
  await refund(1_000n)
  const refundId = await refund()
  await asTenant(database.service, tenantId, (tx) => payRefund(tx, { tenantId, refundId, from: 'cash' }))
  // Whoever was erased bears another name; the books have ids.
  await tamper('update billing.charge set patient_id = gen_random_uuid() where tenant_id = $1', [tenantId])
  expect(await found()).toEqual([])
})

describe('a document is found', () => {
  test('whose amount, currency or account is not what was posted', async () => {
    const [one, other, paid] = [await charge(), await charge(700n), await payment()]
    await tamper('update billing.charge set amount_minor = 60000 where id = $1', [one.id])
    await tamper(`update billing.charge set currency = 'USD' where id = $1`, [other.id])
    const cash = await asTenant(database.service, tenantId, (tx) =>
      openAccount(tx, { tenantId, code: 'receivable', currency: 'AFN' }),
    )
    await tamper('update billing.payment set account_id = $2 where id = $1', [paid.id, cash])
    expect((await found()).sort()).toEqual(
      [
        `critical charge ${one.id}: it is of 60000 AFN, and transaction ${one.transactionId} posted 50000 AFN to its account`,
        `critical charge ${other.id}: it is of 700 USD, and transaction ${other.transactionId} posted 700 AFN to its account`,
        `critical payment ${paid.id}: transaction ${paid.transactionId} was posted to account ${accountId}, not to its own ${cash}`,
      ].sort(),
    )
    expect(await found({ accountId: cash })).toHaveLength(1)
  })

  test('that was never posted, or by another’s transaction, or by one of another kind', async () => {
    const [one, other] = [await charge(), await charge()]
    await tamper('update billing.charge set transaction_id = null where id = $1', [one.id])
    const [paid, second] = [await payment(), await payment()]
    await tamper('update billing.payment set transaction_id = $2 where id = $1', [
      second.id,
      paid.transactionId,
    ])
    await tamper('update billing.charge set transaction_id = $2 where id = $1', [
      other.id,
      paid.transactionId,
    ])
    const [first, last] = [paid.id, second.id].sort()
    expect(await found()).toEqual(
      expect.arrayContaining([
        `error charge ${one.id}: it is of 50000 AFN, and nothing was posted for it`,
        `critical charge ${other.id}: its transaction ${paid.transactionId} is a payment`,
        `error payment ${last}: its transaction ${paid.transactionId} is that of payment ${first}`,
      ]),
    )
  })

  test('that is an approved refund of another amount', async () => {
    const id = await refund()
    await tamper('update billing.refund set amount_minor = 9000 where id = $1', [id])
    expect(await found()).toEqual([
      expect.stringContaining(`critical refund ${id}: it is of 9000 AFN, and transaction`),
    ])
  })
})

describe('a transaction is found', () => {
  test('whose document is gone, with account and entry', async () => {
    const { id, transactionId } = await charge()
    await payment()
    await tamper('delete from billing.charge where id = $1', [id])
    expect(await found()).toEqual([
      `error transaction ${transactionId}: no charge accounts for it: entry 1 of account ${accountId}, 50000 AFN`,
    ])
  })

  test('that somebody posted again under another key, until it is reversed', async () => {
    await charge()
    const again = await posting('charge', randomUUID(), 50_000n)
    expect(await found()).toEqual([
      `warning transaction ${again}: no charge accounts for it: entry 2 of account ${accountId}, 50000 AFN`,
    ])
    await posting('reversal', `reversal:${again}`, -50_000n, again)
    expect(await found()).toEqual([])
  })
})

test('with a seal before, new documents are read, and old ones when it is their turn or all are', async () => {
  const paid = await payment()
  await tamper('update billing.payment set amount_minor = 1 where id = $1', [paid.id])
  const now = Date.now() / 1_000
  const since = (iat: number, scope = {}) =>
    examineDocuments(database.db, { tenantId, ...scope }, { n: 1, iat })
  expect(await since(now, { quick: true })).toHaveLength(1)
  expect(await since(now + 7_200, { quick: true })).toEqual([])
  expect(await since(now + 7_200, { full: true })).toHaveLength(1)
})
