import { randomUUID } from 'node:crypto'
import { beforeAll, describe, expect, test, vi } from 'vitest'
import type { Visit } from '../../src/sandbox/visit.ts'
import { useApi } from '../support/api.ts'

const world = useApi()
const { database } = world

let visit: Visit
let accountId: string

beforeAll(async () => {
  visit = await world.visit()
  accountId = (await charge()).body.accountId
})

const charge = (body: object = { patientId: randomUUID(), code: 'CONSULT-REMOTE' }, key = randomUUID()) =>
  world.post(visit, '/billing/charges', body, key)
const payment = (more: object = {}) => ({
  accountId,
  amountMinor: 20_000,
  currency: 'AFN',
  method: 'cash',
  reference: randomUUID(),
  ...more,
})
const pay = (body: unknown, key: string | undefined) => world.post(visit, '/billing/payments', body, key)

/** Everything that a write could have changed. */
const traces = async () => {
  const [row] = await database.db.query(
    `select (select count(*) from billing.journal_transaction)::int as transactions,
       (select count(*) from billing.entry)::int as entries,
       (select count(tenant_id) from billing.payment)::int as payments,
       (select count(id) from billing.charge)::int as charges,
       (select count(tenant_id) from billing.idempotency_key)::int as keys,
       (select count(*) from billing.outbox)::int as events`,
  )
  return row
}
const balance = async (id: string) => {
  const [row] = await database.db.query<{ balance_minor: bigint }>(
    'select balance_minor from billing.balance where account_id = $1',
    [id],
  )
  return row?.balance_minor
}
/** Does what nobody but the owner may: changes rows of a table that is closed to it. */
const asOwner = (table: string, sql: string, values: unknown[] = []) =>
  database.owner.transaction(async (tx) => {
    await tx.query(`alter table ${table} disable row level security`)
    const rows = await tx.query(sql, values)
    await tx.query(`alter table ${table} enable row level security`)
    return rows
  })
const expireKeys = (schema = 'billing') =>
  asOwner(
    `${schema}.idempotency_key`,
    `update ${schema}.idempotency_key set created_at = created_at - interval '24 hours'`,
  )
const flush = () => world.redis.flush()

describe('a charge and a payment', () => {
  test('are posted: the patient owes the price in effect, and less by what is paid', async () => {
    const { status, body, headers } = await charge()
    expect(status).toBe(201)
    expect(body).toMatchObject({ amountMinor: '50000', currency: 'AFN', code: 'CONSULT-REMOTE' })
    expect(headers.get('idempotency-replayed')).toBeNull()
    expect(await balance(body.accountId)).toBe(50_000n)
    const paid = await pay(payment({ accountId: body.accountId, amountMinor: '20000' }), randomUUID())
    expect(paid).toMatchObject({ status: 201, body: { amountMinor: '20000', method: 'cash' } })
    expect(await balance(body.accountId)).toBe(30_000n)
  })

  test('go to the account of the gateway that was paid by', async () => {
    const { body } = await pay(payment({ method: 'hesabpay' }), randomUUID())
    const rows = await database.db.query(
      `select a.code, e.amount_minor from billing.entry e join billing.account a on a.id = e.account_id
       where e.transaction_id = $1 order by e.amount_minor`,
      [body.transactionId],
    )
    expect(rows[1]).toEqual({ code: 'gateway:hesabpay', amount_minor: 20_000n })
  })
})

describe('the same request again', () => {
  test.each([
    ['out of the cache', async () => {}],
    ['out of the database, when the cache was flushed', flush],
  ])('is answered byte for byte, with a mark, %s', async (_from, between) => {
    const [body, key] = [payment(), randomUUID()]
    const first = await pay(body, key)
    await between()
    const before = await traces()
    const again = await pay(body, key)
    expect(again.text).toBe(first.text)
    expect(again.status).toBe(201)
    expect(again.headers.get('content-type')).toBe(first.headers.get('content-type'))
    expect(again.headers.get('idempotency-replayed')).toBe('true')
    expect(await traces()).toEqual(before)
  })

  test('is the same whatever the order of its members, its white space, and the quotes around its key', async () => {
    const { accountId, ...rest } = payment()
    const first = await pay({ accountId, ...rest }, 'order-1')
    const again = await pay(JSON.stringify({ ...rest, accountId }, null, 3), '"order-1"')
    expect(again.text).toBe(first.text)
  })

  test.each([['from the cache', async () => {}] as const, ['from the database', flush] as const])(
    'with another body is refused, %s',
    async (_from, between) => {
      const [body, key] = [payment(), randomUUID()]
      await pay(body, key)
      await between()
      const before = await traces()
      const other = await pay({ ...body, amountMinor: 20_001 }, key)
      expect(other).toMatchObject({ status: 422, body: { statusCode: 422, code: 'IDEMPOTENCY_KEY_REUSED' } })
      expect(await traces()).toEqual(before)
    },
  )

  test('is another request of another tenant, and on another route', async () => {
    const key = randomUUID()
    await pay(payment(), key)
    expect((await charge(undefined, key)).headers.get('idempotency-replayed')).toBeNull()
    const other = await world.visit()
    const patient = { patientId: randomUUID(), code: 'CONSULT-REMOTE' }
    const theirs = await world.post(other, '/billing/charges', patient, key)
    expect(theirs.status).toBe(201)
    expect(theirs.headers.get('idempotency-replayed')).toBeNull()
  })

  test('is refused with Retry-After while the first is under way, then answered', async () => {
    const [body, key] = [payment(), randomUUID()]
    await using holding = await database.db.connection()
    await holding.query('begin')
    await holding.query(`select set_config('role', 'tabib_relay', true)`)
    await holding.query('select 1 from billing.balance where account_id = $1 for update', [accountId])
    const first = pay(body, key)
    await vi.waitFor(async () => expect(await waiting()).toBe(1), { timeout: 20_000 })
    const again = await pay(body, key)
    expect(again).toMatchObject({ status: 409, body: { code: 'REQUEST_IN_PROGRESS' } })
    expect(again.headers.get('retry-after')).toBe('1')
    await holding.query('rollback')
    const { text } = await first
    expect((await pay(body, key)).text).toBe(text)
  })

  test('after the database lost the first in its midst is done as if for the first time', async () => {
    const [body, key] = [payment(), randomUUID()]
    const before = await traces()
    await using holding = await database.db.connection()
    await holding.query('begin')
    await holding.query('select 1 from billing.balance where account_id = $1 for update', [accountId])
    const first = pay(body, key)
    await vi.waitFor(async () => expect(await waiting()).toBe(1), { timeout: 20_000 })
    await database.db.query(
      `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
    )
    expect(await first).toMatchObject({ status: 503, body: { code: 'POSTGRES_UNREACHABLE' } })
    await holding.query('rollback')
    expect(await traces()).toEqual(before)
    const again = await pay(body, key)
    expect(again.status).toBe(201)
    expect(again.headers.get('idempotency-replayed')).toBeNull()
  })

  test('fifty at once pay once, and each is told of that one payment', async () => {
    const [body, key] = [payment(), randomUUID()]
    const until201 = async () => {
      for (;;) {
        const answer = await pay(body, key)
        if (answer.status !== 409) return answer
      }
    }
    const before = await balance(accountId)
    const answers = await Promise.all(Array.from({ length: 50 }, until201))
    expect(new Set(answers.map(({ status, text }) => `${status} ${text}`)).size).toBe(1)
    expect(answers[0]?.status).toBe(201)
    expect(answers.filter(({ headers }) => headers.get('idempotency-replayed') === null)).toHaveLength(1)
    expect(await balance(accountId)).toBe(before! - 20_000n)
  })
})

const waiting = async () => {
  const [row] = await database.db.query<{ n: number }>(
    `select count(*)::int as n from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
  )
  return row?.n
}

describe('after 24 hours', () => {
  test('money is still not moved twice: the payment is answered with, and another body is refused', async () => {
    const [body, key] = [payment(), randomUUID()]
    const first = await pay(body, key)
    await expireKeys()
    await flush()
    const before = await balance(accountId)
    const again = await pay(body, key)
    expect(again.text).toBe(first.text)
    expect(again.headers.get('idempotency-replayed')).toBe('true')
    expect(await balance(accountId)).toBe(before)
    await expireKeys()
    await flush()
    const other = await pay({ ...body, amountMinor: 1 }, key)
    expect(other).toMatchObject({ status: 422, body: { code: 'IDEMPOTENCY_KEY_REUSED' } })
  })

  test('a charge is answered with as well', async () => {
    const [body, key] = [{ patientId: randomUUID(), code: 'CONSULT-REMOTE' }, randomUUID()]
    const first = await charge(body, key)
    await expireKeys()
    await flush()
    expect((await charge(body, key)).text).toBe(first.text)
    expect(await balance(first.body.accountId)).toBe(50_000n)
  })

  test('and not a moment before, a key may be deleted; no key is ever changed', async () => {
    await pay(payment(), 'deleted-too-early')
    const remove = `delete from billing.idempotency_key where key = 'deleted-too-early' returning key`
    const asService = (sql: string) =>
      database.service.transaction(async (tx) => {
        await tx.query(`select set_config('app.tenant_id', $1, true)`, [visit.tenantId])
        return tx.query(sql)
      })
    expect(await database.db.query(remove)).toEqual([])
    expect(await asService(remove)).toEqual([])
    await expect(
      asService(`update billing.idempotency_key set created_at = now() - interval '2 days'`),
    ).rejects.toMatchObject({ code: 'NOT_AUTHORISED' })
    await expireKeys()
    expect(await database.db.query(remove)).toHaveLength(1)
  })
})

describe('a join token', () => {
  const ask = (key?: string, body: object = { participantId: visit.participantIds[0] }) =>
    world.post(visit, `/virtual-care/sessions/${visit.sessionId}/join-token`, body, key)

  test('is a new one each time, and the same one under a key', async () => {
    expect((await ask()).text).not.toBe((await ask()).text)
    const first = await ask('join-1')
    expect(first.status).toBe(201)
    const again = await ask('join-1')
    expect(again.text).toBe(first.text)
    expect(again.headers.get('idempotency-replayed')).toBe('true')
    expect(await ask('join-1', { participantId: visit.participantIds[1] })).toMatchObject({
      status: 422,
      body: { code: 'IDEMPOTENCY_KEY_REUSED' },
    })
  })

  test('is in the database for nobody to read, nor the key that it is kept under', async () => {
    const key = randomUUID()
    const { token } = (await ask(key)).body
    const kept = await asOwner(
      'virtual_care.idempotency_key',
      'select key || body as text from virtual_care.idempotency_key',
    )
    expect(kept.length).toBeGreaterThan(0)
    for (const secret of [key, ...token.split('.')]) {
      for (const encoded of [secret, Buffer.from(secret).toString('base64').slice(0, -4)]) {
        expect(JSON.stringify(kept)).not.toContain(encoded)
      }
    }
    expect((await ask(key)).body.token).toBe(token)
  })

  test('is a new one under a key that has expired, and is never in the cache', async () => {
    const first = await ask('join-2')
    await expireKeys('virtual_care')
    const again = await ask('join-2')
    expect(again.status).toBe(201)
    expect(again.text).not.toBe(first.text)
    expect(await world.app.redis.keys('*virtual-care*')).toEqual([])
  })
})

describe('nothing is changed, and the reason told, by', () => {
  test.each<[string, string | undefined, number, string]>([
    ['no key', undefined, 400, 'IDEMPOTENCY_KEY_MISSING'],
    ['an empty key', '""', 400, 'IDEMPOTENCY_KEY_INVALID'],
    ['a key that is too long', 'k'.repeat(256), 400, 'IDEMPOTENCY_KEY_INVALID'],
    ['two keys', 'one, two', 400, 'IDEMPOTENCY_KEY_INVALID'],
    ['a key with parameters', '"one";two=3', 400, 'IDEMPOTENCY_KEY_INVALID'],
    ['a quote without its end', '"one', 400, 'IDEMPOTENCY_KEY_INVALID'],
  ])('%s', async (_what, key, status, code) => {
    const before = await traces()
    expect(await pay(payment(), key)).toMatchObject({ status, body: { statusCode: status, code } })
    expect(await traces()).toEqual(before)
  })

  test.each<[string, () => unknown, number, string]>([
    ['a negative amount', () => payment({ amountMinor: -1 }), 400, 'AMOUNT_INVALID'],
    ['a negative amount as text', () => payment({ amountMinor: '-1' }), 400, 'AMOUNT_INVALID'],
    ['nothing', () => payment({ amountMinor: 0 }), 400, 'AMOUNT_INVALID'],
    ['a fraction', () => payment({ amountMinor: 10.5 }), 400, 'AMOUNT_INVALID'],
    ['a fraction as text', () => payment({ amountMinor: '10.5' }), 400, 'AMOUNT_INVALID'],
    ['a number that JSON readers round', () => payment({ amountMinor: 2 ** 53 }), 400, 'AMOUNT_INVALID'],
    [
      'an amount beyond a bigint',
      () => payment({ amountMinor: '9223372036854775808' }),
      400,
      'AMOUNT_INVALID',
    ],
    [
      'a balance beyond a bigint',
      () => payment({ amountMinor: '9223372036854775807' }),
      422,
      'BALANCE_OVERFLOW',
    ],
    ['a foreign currency', () => payment({ currency: 'USD' }), 422, 'CURRENCY_MISMATCH'],
    ['a currency that is none', () => payment({ currency: 'afn' }), 400, 'USAGE'],
    ['an unknown account', () => payment({ accountId: randomUUID() }), 404, 'ACCOUNT_UNKNOWN'],
    ['an account that nobody owes on', cashAccount, 404, 'ACCOUNT_UNKNOWN'],
    ['a member too many', () => payment({ note: 'for Zahra' }), 400, 'USAGE'],
    ['no JSON', () => '{', 400, 'USAGE'],
    ['no object', () => '[]', 400, 'USAGE'],
    [
      'a fraction that JSON readers round away',
      () => rewritten(/20000/, '100.00000000000000001'),
      400,
      'USAGE',
    ],
    ['a member given twice', () => rewritten(/^{/, '{"amountMinor":1,'), 400, 'USAGE'],
    [
      'a member given twice with one value',
      () => rewritten(/^{/, '{"amount\\u004dinor":20000,'),
      400,
      'USAGE',
    ],
    ['a NUL in a text', () => payment({ reference: 'R-1\u0000' }), 400, 'USAGE'],
    ['nesting without end', () => `${'['.repeat(8_000)}${']'.repeat(8_000)}`, 400, 'USAGE'],
  ])('%s', async (_what, body, status, code) => {
    // Both accounts hold something, so that a balance can overflow.
    await pay(payment(), randomUUID())
    const before = await traces()
    const asked = body instanceof Function ? await body() : body
    expect(await pay(asked, randomUUID())).toMatchObject({ status, body: { statusCode: status, code } })
    expect(await traces()).toEqual(before)
  })

  /** The payment's text, with something put in place of something. */
  function rewritten(what: RegExp, by: string) {
    return JSON.stringify(payment()).replace(what, by)
  }

  async function cashAccount() {
    const [row] = await database.db.query<{ id: string }>(
      `select id from billing.account where tenant_id = $1 and code = 'cash'`,
      [visit.tenantId],
    )
    return payment({ accountId: row?.id })
  }

  test('an account that is frozen', async () => {
    const { body } = await charge()
    await database.db.query(
      `update billing.balance set frozen_at = now(), frozen_reason = 'drift', frozen_incident = gen_random_uuid()
       where account_id = $1`,
      [body.accountId],
    )
    const before = await traces()
    const refused = await pay(payment({ accountId: body.accountId }), randomUUID())
    expect(refused).toMatchObject({ status: 409, body: { code: 'ACCOUNT_FROZEN' } })
    expect(await traces()).toEqual(before)
  })

  test('an account whose balance is not what was posted', async () => {
    const { body } = await charge()
    await asOwner(
      'billing.balance',
      'update billing.balance set balance_minor = balance_minor + 5 where account_id = $1',
      [body.accountId],
    )
    const before = await traces()
    const refused = await pay(payment({ accountId: body.accountId }), randomUUID())
    expect(refused).toMatchObject({ status: 409, body: { code: 'LEDGER_DRIFT' } })
    expect(await traces()).toEqual(before)
  })

  test('a token of the tenant for another API', async () => {
    const before = await traces()
    const scheduler = { ...visit, billingToken: visit.serviceToken }
    const refused = await world.post(scheduler, '/billing/payments', payment(), randomUUID())
    expect(refused).toMatchObject({ status: 401, body: { code: 'TOKEN_INVALID' } })
    expect(await traces()).toEqual(before)
  })

  test('another tenant’s account', async () => {
    const other = await world.visit()
    const { status, body } = await world.post(other, '/billing/payments', payment(), randomUUID())
    expect({ status, code: body.code }).toEqual({ status: 404, code: 'ACCOUNT_UNKNOWN' })
  })

  test('a refusal, after which the same key is as good as new', async () => {
    const key = randomUUID()
    expect((await charge({ patientId: randomUUID(), code: 'LAB-CBC' }, key)).status).toBe(422)
    expect((await charge({ patientId: randomUUID(), code: 'CONSULT-REMOTE' }, key)).status).toBe(201)
  })

  test.each(['', 'CONSULT\u0000REMOTE', '\ud800', 'x'.repeat(65)])(
    'an item that none can be, %j',
    async (code) => {
      const before = await traces()
      const refused = await charge({ patientId: randomUUID(), code })
      expect(refused).toMatchObject({ status: 400, body: { code: 'USAGE' } })
      expect(await traces()).toEqual(before)
    },
  )

  test('an item without a price in effect', async () => {
    const before = await traces()
    const { status, body } = await charge({ patientId: randomUUID(), code: 'LAB-CBC' })
    expect({ status, code: body.code }).toEqual({ status: 422, code: 'PRICE_NOT_FOUND' })
    expect(await traces()).toEqual(before)
  })

  test('a tenant without a currency, and that is counted', async () => {
    const other = await world.visit()
    await database.db.query(`update tabib.tenant set status = 'onboarding', currency = null where id = $1`, [
      other.tenantId,
    ])
    for (const [route, body] of [
      ['/billing/payments', payment()],
      ['/billing/charges', { patientId: randomUUID(), code: 'CONSULT-REMOTE' }],
    ] as const) {
      const refused = await world.post(other, route, body, randomUUID())
      expect(refused).toMatchObject({ status: 400, body: { code: 'CURRENCY_NOT_SET' } })
    }
    const [row] = await database.db.query(
      'select sum(n)::int as n from billing.currency_refusal where tenant_id = $1',
      [other.tenantId],
    )
    expect(row).toEqual({ n: 2 })
  })
})
