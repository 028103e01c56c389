import { randomUUID } from 'node:crypto'
import { expect, test } from 'vitest'
import { openDatabase } from '../../src/adapters/postgres/client.ts'
import { type NewTransaction, postTransaction } from '../../src/domain/ledger/post.ts'
import { useDatabase } from '../support/database.ts'
import { useLedger } from '../support/ledger.ts'

const database = useDatabase()
const ledger = useLedger(database)
const { open, post, service, transaction } = ledger
const LARGEST = 2n ** 63n - 1n
const written = async () => ({
  balances: await database.db.query(
    `select code, balance_minor, seq from billing.balance b join billing.account a on a.id = b.account_id
     where b.tenant_id = $1 order by code`,
    [ledger.tenantId],
  ),
  entries: await database.db.query(
    `select code, e.seq, amount_minor, balance_minor from billing.entry e join billing.account a on a.id = e.account_id
     where e.tenant_id = $1 order by code, e.seq`,
    [ledger.tenantId],
  ),
  transactions: await database.db.query(
    'select id, kind, business_key from billing.journal_transaction where tenant_id = $1 order by posted_at',
    [ledger.tenantId],
  ),
  events: await database.db.query(
    `select type, data from billing.outbox where tenant_id = $1 and aggregate_type = 'ledger' order by seq`,
    [ledger.tenantId],
  ),
})

test('entries, balances and an event of ids alone are written together', async () => {
  const { id, again } = await post(1250n)
  expect(again).toBe(false)
  await post(-250n)
  expect(await written()).toMatchObject({
    balances: [
      { code: 'cash', balance_minor: 1000n, seq: 2n },
      { code: 'revenue', balance_minor: -1000n, seq: 2n },
    ],
    entries: [
      { code: 'cash', seq: 1n, amount_minor: 1250n, balance_minor: 1250n },
      { code: 'cash', seq: 2n, amount_minor: -250n, balance_minor: 1000n },
      { code: 'revenue', seq: 1n, amount_minor: -1250n, balance_minor: -1250n },
      { code: 'revenue', seq: 2n, amount_minor: 250n, balance_minor: -1000n },
    ],
    events: [{ type: 'posted', data: { transactionId: id, kind: 'payment' } }, {}],
  })
  const [{ data }] = (await written()).events as [{ data: { accountIds: string[] } }]
  expect(data.accountIds.sort()).toEqual([ledger.cash, ledger.revenue].sort())
})

test('what rolls back leaves no entry and no event', async () => {
  const before = await written()
  const failed = service(async (tx) => {
    await postTransaction(tx, transaction(5n))
    throw new Error('the caller failed')
  })
  await expect(failed).rejects.toThrow('the caller failed')
  expect(await written()).toEqual(before)
})

test('posting from many connections leaves every sequence gapless and every balance the sum', async () => {
  await using crowd = openDatabase({ url: database.url('service'), maxConnections: 16 })
  const accounts = await Promise.all([1, 2, 3, 4].map((n) => open(`gateway:${n}`)))
  await Promise.all(
    Array.from({ length: 200 }, (_, n) =>
      crowd.transaction(async (tx) => {
        await tx.query(`select set_config('app.tenant_id', $1, true)`, [ledger.tenantId])
        const [from, to] = [accounts[n % 4]!, accounts[(n * 3 + 1) % 4]!]
        await postTransaction(
          tx,
          transaction(0n, {
            entries: [
              { accountId: from, amountMinor: BigInt(n + 1), currency: 'AFN' },
              { accountId: to, amountMinor: -BigInt(n + 1), currency: 'AFN' },
            ],
          }),
        )
      }),
    ),
  )
  const wrong = await database.db.query(
    `select b.account_id from billing.balance b
     left join (select account_id, count(*) as n, max(seq) as last, sum(amount_minor) as total,
         bool_and(balance_minor = running) as chained
       from (select *, sum(amount_minor) over (partition by account_id order by seq) as running from billing.entry
         where tenant_id = $1) e group by 1) e using (account_id)
     where b.tenant_id = $1 and (b.seq, b.seq, b.balance_minor) is distinct from
       (coalesce(n, 0), coalesce(last, 0), coalesce(total, 0)) or not chained`,
    [ledger.tenantId],
  )
  expect(wrong).toEqual([])
  expect((await written()).transactions).toHaveLength(200)
})

test('one business key posts once, however many try at once, and all learn the same transaction', async () => {
  const once = transaction(700n, { businessKey: 'payment:1' })
  const posted = await Promise.all(
    Array.from({ length: 8 }, () => service((tx) => postTransaction(tx, once))),
  )
  expect(new Set(posted.map(({ id }) => id)).size).toBe(1)
  expect(posted.filter(({ again }) => !again)).toHaveLength(1)
  const { transactions, entries, events } = await written()
  expect([transactions, entries, events].map((rows) => rows.length)).toEqual([1, 2, 1])

  const reordered = { ...once, entries: once.entries.toReversed() }
  expect(await service((tx) => postTransaction(tx, reordered))).toMatchObject({ again: true })
  await expect(post(701n, { businessKey: 'payment:1' })).rejects.toMatchObject({ code: 'BUSINESS_KEY_TAKEN' })
  await expect(post(700n, { businessKey: 'payment:1', kind: 'charge' })).rejects.toMatchObject({
    code: 'BUSINESS_KEY_TAKEN',
  })
})

const entriesOf = (...entries: [account: string, amountMinor: unknown, currency?: string][]) => ({
  entries: entries.map(([accountId, amountMinor, currency = 'AFN']) => ({
    accountId,
    amountMinor: amountMinor as bigint,
    currency,
  })),
})
test.each<[what: string, code: string, says: RegExp, over: () => Partial<NewTransaction>]>([
  [
    'a foreign currency',
    'CURRENCY_MISMATCH',
    /kept in AFN, and the entry is in USD/,
    () => entriesOf([ledger.cash, 5n, 'USD'], [ledger.revenue, -5n, 'USD']),
  ],
  [
    'entries that do not sum to zero',
    'TRANSACTION_UNBALANCED',
    /AFN sum to 1,/,
    () => entriesOf([ledger.cash, 5n], [ledger.revenue, -4n]),
  ],
  [
    'zero in sum over two currencies',
    'TRANSACTION_UNBALANCED',
    /in (AFN|USD) sum to/,
    () => entriesOf([ledger.cash, 5n, 'USD'], [ledger.revenue, -5n]),
  ],
  [
    'a fraction',
    'AMOUNT_INVALID',
    /entry 1: the amount 12\.5 is not a whole number/,
    () => entriesOf([ledger.cash, 12.5], [ledger.revenue, -12.5]),
  ],
  [
    'nothing',
    'AMOUNT_INVALID',
    /entry 1: the amount 0 /,
    () => entriesOf([ledger.cash, 0n], [ledger.revenue, 0n]),
  ],
  [
    'what is not a number',
    'AMOUNT_INVALID',
    /NaN/,
    () => entriesOf([ledger.cash, Number.NaN], [ledger.revenue, 1n]),
  ],
  [
    'more than 64 bits',
    'AMOUNT_INVALID',
    /9223372036854775808/,
    () => entriesOf([ledger.cash, LARGEST + 1n], [ledger.revenue, -LARGEST - 1n]),
  ],
  [
    'an unknown account',
    'ACCOUNT_UNKNOWN',
    /has no account 00000000-0000-4000-8000-000000000000/,
    () => entriesOf([ledger.cash, 5n], ['00000000-0000-4000-8000-000000000000', -5n]),
  ],
  ['one entry', 'USAGE', /two entries or more/, () => entriesOf([ledger.cash, 5n])],
  ['no business key', 'USAGE', /business key/, () => ({ businessKey: '' })],
  [
    'an incident, by a service',
    'NOT_AUTHORISED',
    /may not post for incident/,
    () => ({
      incidentId: randomUUID(),
    }),
  ],
  ['another tenant', 'NOT_AUTHORISED', /app\.tenant_id is/, () => ({ tenantId: randomUUID() })],
  [
    'the reversal of nothing',
    'REVERSAL_REFUSED',
    /no transaction .* to reverse/,
    () => ({
      reverses: randomUUID(),
    }),
  ],
])('%s is refused as %s, and nothing is changed', async (_, code, says, over) => {
  await post(100n)
  const before = await written()
  const refused = post(5n, over())
  await expect(refused).rejects.toMatchObject({ code, message: expect.stringMatching(says) })
  expect(await written()).toEqual(before)
})

test('a balance that would not fit 64 bits is refused', async () => {
  await post(LARGEST)
  await expect(post(1n)).rejects.toMatchObject({ code: 'BALANCE_OVERFLOW' })
  expect((await written()).balances).toMatchObject([{ balance_minor: LARGEST }, { balance_minor: -LARGEST }])
})

test('a transaction is reversed once, by its own entries with the other sign', async () => {
  const { id } = await post(400n)
  await expect(post(-300n, { reverses: id })).rejects.toMatchObject({ code: 'REVERSAL_REFUSED' })
  const both = await Promise.allSettled([
    post(-400n, { kind: 'reversal', reverses: id }),
    post(-400n, { kind: 'reversal', reverses: id }),
  ])
  expect(both.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
  expect(both.find(({ status }) => status === 'rejected')).toMatchObject({
    reason: { code: 'REVERSAL_REFUSED', message: expect.stringContaining('reversed already') },
  })
  expect((await written()).balances).toMatchObject([{ balance_minor: 0n }, { balance_minor: 0n }])
})

test('no role edits, deletes or empties what was posted, and each is told why', async () => {
  await post(100n)
  const before = await written()
  for (const table of ['entry', 'journal_transaction']) {
    for (const statement of [
      `update billing.${table} set posted_at = now()`,
      `delete from billing.${table}`,
      `truncate billing.${table} cascade`,
    ]) {
      await expect(database.owner.query(statement), statement).rejects.toThrow(/append-only/)
      const refused = service((tx) => tx.query(statement))
      await expect(refused).rejects.toMatchObject({
        code: 'NOT_AUTHORISED',
        message: expect.stringMatching(
          statement.startsWith('truncate') ? /permission denied/ : /append-only/,
        ),
      })
    }
  }
  const around = [
    `insert into billing.entry (tenant_id, account_id, seq, transaction_id, amount_minor, currency, balance_minor)
     select tenant_id, account_id, seq + 1, transaction_id, amount_minor, currency, balance_minor from billing.entry`,
    'update billing.balance set balance_minor = 0',
    'update billing.balance set frozen_at = null',
    `update billing.account set currency = 'USD'`,
  ]
  for (const statement of around) {
    await expect(
      service((tx) => tx.query(statement)),
      statement,
    ).rejects.toMatchObject({ code: 'NOT_AUTHORISED' })
  }
  expect(await written()).toEqual(before)
})

test('an account whose balance was tampered with takes no post, and the others go on', async () => {
  await post(100n)
  await ledger.tamper('update billing.balance set balance_minor = 150 where account_id = $1', [ledger.cash])
  await expect(post(5n)).rejects.toMatchObject({
    code: 'LEDGER_DRIFT',
    message: `account ${ledger.cash}: its balance is 150 at sequence 1, and its last entry says 100 at 1`,
  })
  await post(5n, entriesOf([await open('gateway:x'), 5n], [ledger.revenue, -5n]))
})

test('a frozen account takes no post, nor an entry that goes around billing.post; the others go on', async () => {
  const { id } = await post(100n)
  const incident = randomUUID()
  await database.db.query(
    `update billing.balance set frozen_at = now(), frozen_reason = 'drift', frozen_incident = $2 where account_id = $1`,
    [ledger.cash, incident],
  )
  await expect(post(5n)).rejects.toMatchObject({
    code: 'ACCOUNT_FROZEN',
    message: expect.stringContaining(ledger.cash),
  })
  const direct = database.owner.transaction(async (tx) => {
    await tx.query(`select set_config('app.tenant_id', $1, true)`, [ledger.tenantId])
    await tx.query(
      `insert into billing.entry (tenant_id, account_id, seq, transaction_id, amount_minor, currency, balance_minor)
       values ($1, $2, 2, $3, 5, 'AFN', 105)`,
      [ledger.tenantId, ledger.cash, id],
    )
  })
  await expect(direct).rejects.toThrow(/is frozen since .*: drift/)

  const other = await open('gateway:x')
  await post(5n, entriesOf([other, 5n], [ledger.revenue, -5n]))
  // tabib mends what the incident found, and posts for no other incident.
  const mend = (incidentId: string) =>
    database.db.transaction(async (tx) => {
      await tx.query(`select set_config('app.tenant_id', $1, true)`, [ledger.tenantId])
      return postTransaction(tx, transaction(-100n, { kind: 'reversal', reverses: id, incidentId }))
    })
  await expect(mend(randomUUID())).rejects.toMatchObject({ code: 'ACCOUNT_FROZEN' })
  expect(await mend(incident)).toMatchObject({ again: false })
})

test('an account is opened once, in one currency', async () => {
  expect(new Set(await Promise.all([1, 2, 3].map(() => open('refunds-payable')))).size).toBe(1)
  await expect(open('refunds-payable', 'USD')).rejects.toMatchObject({ code: 'CURRENCY_MISMATCH' })
})
