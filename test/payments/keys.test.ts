import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, expect, test } from 'vitest'
import { forgetKeys } from '../../src/domain/idempotency/forget.ts'
import { cacheMissRatio } from '../../src/domain/idempotency/warm.ts'
import { postTransaction } from '../../src/domain/ledger/post.ts'
import { lostKeys, unguardedKeys } from '../../src/domain/payments/lost-keys.ts'
import { repeatedPayments } from '../../src/domain/payments/repeated.ts'
import { asTenant } from '../../src/domain/sessions/tenant.ts'
import { packageRoot } from '../../src/package-root.ts'
import type { Visit } from '../../src/sandbox/visit.ts'
import { type ApiAnswer, useApi } from '../support/api.ts'
import { runLine } from '../support/line.ts'

const world = useApi()
const { database } = world

const runbook = readFileSync(join(packageRoot(), 'runbooks/billing/fm-09-idempotency-ttl.md'), 'utf8')
let visit: Visit
let accountId: string
beforeAll(async () => {
  visit = await world.visit()
  accountId = await owe()
})

const owe = async () => {
  const ask = { patientId: randomUUID(), code: 'CONSULT-REMOTE' }
  return (await world.post(visit, '/billing/charges', ask, randomUUID())).body.accountId
}
const payment = (more: object = {}) => ({
  accountId,
  amountMinor: 100,
  currency: 'AFN',
  method: 'cash',
  reference: randomUUID(),
  ...more,
})
const pay = (body: object, key: string = randomUUID()) => world.post(visit, '/billing/payments', body, key)
const payments = async (n: number) => {
  const made = Array.from({ length: n }, () => ({ key: randomUUID(), body: payment() }))
  const answers: ApiAnswer[] = []
  // Few at once, so that a busy machine has a connection for each.
  for (let i = 0; i < n; i += 20) {
    answers.push(...(await Promise.all(made.slice(i, i + 20).map(({ key, body }) => pay(body, key)))))
  }
  const again = () => Promise.all(made.map(({ key, body }) => pay(body, key)))
  return { answers, again }
}
const texts = (answers: ApiAnswer[]) => answers.map(({ status, text }) => `${status} ${text}`)
const made = async () => {
  const [row] = await database.db.query<{ n: number }>(
    'select count(tenant_id)::int as n from billing.payment',
  )
  return row?.n
}
const tabib = async (...argv: string[]) => {
  const { exitCode, stdout } = await runLine(['idempotency', ...argv, '--json'], world.env)
  return { exitCode, ...JSON.parse(stdout) }
}
const withoutPolicies = (sql: string) =>
  database.owner.transaction(async (tx) => {
    await tx.query('alter table billing.idempotency_key disable row level security')
    await tx.query(sql)
    await tx.query('alter table billing.idempotency_key enable row level security')
  })

test('a flood of retries after the cache was lost is answered from the database, and fills the cache again', async () => {
  const { answers, again } = await payments(200)
  await world.redis.flush()
  expect(await cacheMissRatio(world.app)).toMatchObject({ ratio: 1, redis: 'ready' })
  const before = await made()
  const flood = await again()
  expect(texts(flood)).toEqual(texts(answers))
  expect(flood.every(({ headers }) => headers.get('idempotency-replayed') === 'true')).toBe(true)
  expect(await made()).toBe(before)
  expect((await cacheMissRatio(world.app)).ratio).toBeLessThan(0.1)
})

test.each(['', '1', '{"status":200', '{"fingerprint":7}'])(
  'what somebody wrote into the cache that is no answer, %j, is passed over',
  async (nonsense) => {
    await world.redis.flush()
    const { answers, again } = await payments(1)
    const [key] = await world.app.redis.keys('*payments:*')
    await world.app.redis.set(key!, nonsense)
    expect(texts(await again())).toEqual(texts(answers))
  },
)

test('idempotency warm puts all answers back, and says so where there is no Redis', async () => {
  await payments(20)
  await world.redis.flush()
  expect(await tabib('warm', '--limit', '5')).toMatchObject({ exitCode: 0, result: { warmed: 5 } })
  expect((await cacheMissRatio(world.app)).ratio).toBeGreaterThan(0.1)
  const { exitCode, result } = await tabib('warm')
  expect(exitCode).toBe(0)
  expect(result.warmed).toBeGreaterThan(20)
  expect((await cacheMissRatio(world.app)).ratio).toBe(0)
  await world.redis.kill()
  expect(await cacheMissRatio(world.app)).toMatchObject({ ratio: 1, redis: 'away' })
  expect(await tabib('warm')).toMatchObject({ exitCode: 3, error: { code: 'REDIS_UNREACHABLE' } })
  await world.redis.restart()
})

test.each([
  ['is killed', () => world.redis.kill(), () => world.redis.restart()],
  ['hangs', () => world.redis.pause(), () => world.redis.resume()],
])('while Redis %s, payments are made, and made once', async (_how, hurt, heal) => {
  await hurt()
  try {
    const before = await made()
    const { answers, again } = await payments(5)
    expect(answers.map(({ status }) => status)).toEqual([201, 201, 201, 201, 201])
    expect(texts(await again())).toEqual(texts(answers))
    expect(await made()).toBe(before! + 5)
  } finally {
    await heal()
  }
})

test('keys that were deleted before their time are found, put back, and answer as before', async () => {
  const { answers, again } = await payments(3)
  expect(await lostKeys(database)).toEqual({ lost: 0, youngestS: null })
  await withoutPolicies('delete from billing.idempotency_key')
  await world.redis.flush()
  const { lost, youngestS } = await lostKeys(database)
  expect(lost).toBeGreaterThanOrEqual(4)
  expect(youngestS).toBeLessThan(60)
  expect(await tabib('restore')).toMatchObject({ exitCode: 0, result: { restored: lost } })
  expect(await tabib('restore')).toMatchObject({ exitCode: 0, result: { restored: 0 } })
  expect(await lostKeys(database)).toEqual({ lost: 0, youngestS: null })
  const before = await made()
  expect(texts(await again())).toEqual(texts(answers))
  expect(await made()).toBe(before)
})

test.each([
  ['is gone', 'drop policy for_24_hours on billing.idempotency_key'],
  [
    'is of an hour',
    `alter policy for_24_hours on billing.idempotency_key using (created_at <= now() - interval '1 hour')`,
  ],
  ['is not in force', 'alter table billing.idempotency_key disable row level security'],
])('a policy of keys that %s is told', async (_how, sql) => {
  expect(await unguardedKeys(database)).toEqual([])
  await database.owner.query(sql)
  expect(await unguardedKeys(database)).toEqual(['billing.idempotency_key'])
  // As the runbook has it.
  const [repair = ''] = /^drop policy.*?^(?=```)/ms.exec(runbook) ?? []
  await database.owner.query(repair)
  expect(await unguardedKeys(database)).toEqual([])
})

test('an account that was paid the same twice is told, until one of the two is reversed', async () => {
  accountId = await owe()
  const receipt = payment()
  await pay(receipt)
  await pay(payment())
  expect((await repeatedPayments(database)).accounts).not.toContain(accountId)
  const { body } = await pay(receipt)
  const { equal, accounts } = await repeatedPayments(database)
  expect(equal).toBe(1)
  expect(accounts).toEqual([accountId])
  const entries = await database.db.query<{ accountId: string; amountMinor: bigint; currency: string }>(
    `select account_id as "accountId", -amount_minor as "amountMinor", currency from billing.entry
     where transaction_id = $1`,
    [body.transactionId],
  )
  await asTenant(database.db, visit.tenantId, (tx) =>
    postTransaction(tx, {
      tenantId: visit.tenantId,
      kind: 'reversal',
      businessKey: `reversal:${body.transactionId}`,
      entries,
      reverses: body.transactionId,
    }),
  )
  expect(await repeatedPayments(database)).toMatchObject({ equal: 0, sameKey: 0, accounts: [] })
})

test('two payments on one posting are told', async () => {
  await database.owner.query('alter table billing.payment drop constraint payment_once')
  await asTenant(database.db, visit.tenantId, (tx) =>
    tx.query(
      `insert into billing.payment
         (tenant_id, account_id, amount_minor, currency, method, reference, idempotency_key, fingerprint, transaction_id)
       select tenant_id, account_id, amount_minor, currency, method, reference, 'another', 'another', transaction_id
       from billing.payment limit 1`,
    ),
  )
  expect((await repeatedPayments(database)).sameKey).toBe(1)
})

test('expired keys are forgotten, and no others', async () => {
  await payments(2)
  await withoutPolicies(
    `update billing.idempotency_key set created_at = now() - interval '24 hours'
     where (tenant_id, route, key) in (select tenant_id, route, key from billing.idempotency_key limit 1)`,
  )
  const { signal } = new AbortController()
  expect(await forgetKeys(database, { service: 'billing' }, { signal })).toBe(1)
  expect(await forgetKeys(database, { service: 'billing' }, { signal })).toBe(0)
})

test('a charge without a price is counted for its item', async () => {
  const ask = { patientId: randomUUID(), code: 'LAB-CBC' }
  for (let n = 1; n <= 2; n++) await world.post(visit, '/billing/charges', ask, randomUUID())
  const [row] = await database.db.query(
    'select item_code, sum(n)::int as n from billing.price_refusal where tenant_id = $1 group by 1',
    [visit.tenantId],
  )
  expect(row).toEqual({ item_code: 'LAB-CBC', n: 2 })
})
