import { randomUUID } from 'node:crypto'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { beforeEach, describe, expect, test, vi } from 'vitest'
import { addOperator } from '../../src/domain/approval/operator.ts'
import { listIncidents } from '../../src/domain/incident/list.ts'
import { openAccount } from '../../src/domain/ledger/account.ts'
import { duplicateCharges, findDuplicates } from '../../src/domain/ledger/duplicates.ts'
import { examineDuplicates } from '../../src/domain/ledger/examine.ts'
import { postTransaction } from '../../src/domain/ledger/post.ts'
import { reverseCertainDuplicates, reverseDuplicates } from '../../src/domain/ledger/reverse-duplicates.ts'
import { pay } from '../../src/domain/payments/pay.ts'
import { decideRefund, requestRefund } from '../../src/domain/payments/refund.ts'
import { asTenant } from '../../src/domain/sessions/tenant.ts'
import { packageRoot } from '../../src/package-root.ts'
import { useDatabase } from '../support/database.ts'
import { useKeyStore } from '../support/key-store.ts'
import { runJson } from '../support/line.ts'
import { liveTenant } from '../support/tenant.ts'

const database = useDatabase()
const keys = useKeyStore()
let tenantId: string
let patientId: string

beforeEach(async () => {
  tenantId = await liveTenant(database.db)
  patientId = randomUUID()
})

interface Made {
  patient?: string
  session?: string
  event?: string
  code?: string
  amount?: bigint
  minutesAgo?: number
  posted?: boolean
}

const post = (key: string, patient: string, amount: bigint, kind = 'charge') =>
  asTenant(database.service, tenantId, async (tx) => {
    const open = (code: string) => openAccount(tx, { tenantId, code, currency: 'AFN' })
    const { id } = await postTransaction(tx, {
      tenantId,
      kind,
      businessKey: key,
      entries: [
        { accountId: await open(`receivable:${patient}`), amountMinor: amount, currency: 'AFN' },
        { accountId: await open('revenue'), amountMinor: -amount, currency: 'AFN' },
      ],
    })
    return id
  })
const charge = async (made: Made = {}) => {
  const { patient = patientId, session, event, code = 'CONSULT', amount = 50_000n, minutesAgo = 0 } = made
  const id = randomUUID()
  const transactionId = made.posted === false ? undefined : await post(`charge:${id}`, patient, amount)
  await asTenant(database.service, tenantId, (tx) =>
    tx.query(
      `insert into billing.charge (tenant_id, id, patient_id, session_id, event_id, amount_minor, currency, code,
         transaction_id, captured_at)
       values ($1, $2, $3, $4, $5, $6, 'AFN', $7, $8, clock_timestamp() - make_interval(mins => $9))`,
      [tenantId, id, patient, session, event, amount, code, transactionId, minutesAgo],
    ),
  )
  return { id, transactionId }
}
const pays = async (amountMinor: bigint, reference: string | undefined, hoursAgo = 0) => {
  const key = randomUUID()
  const call = {
    service: 'billing' as const,
    tenantId,
    route: 'POST /payments',
    key,
    fingerprint: Buffer.from(key),
  }
  const { body } = await asTenant(database.service, tenantId, async (tx) => {
    const accountId = await openAccount(tx, { tenantId, code: `receivable:${patientId}`, currency: 'AFN' })
    return pay(tx, call, { accountId, amountMinor, currency: 'AFN', method: 'cash', reference })
  })
  const { id, transactionId } = JSON.parse(body)
  await database.owner.transaction(async (tx) => {
    await tx.query('alter table billing.payment no force row level security')
    await tx.query(
      `update billing.payment set paid_at = paid_at - make_interval(hours => $2) where id = $1`,
      [id, hoursAgo],
    )
    await tx.query('alter table billing.payment force row level security')
  })
  return transactionId as string
}
const found = async () =>
  (await findDuplicates(database, { tenantId })).map(({ basis, chargeId }) => [basis, chargeId])
const debt = async (patient = patientId) => {
  const [row] = await database.db.query<{ balance: bigint }>(
    `select balance_minor as balance from billing.balance b join billing.account a on (a.tenant_id, a.id) = (b.tenant_id, b.account_id)
     where a.tenant_id = $1 and a.code = 'receivable:' || $2`,
    [tenantId, patient],
  )
  return row?.balance
}
const transaction = async (id: string) => {
  const [row] = await database.db.query('select * from billing.journal_transaction where id = $1', [id])
  return row
}
const count = async (from: string) => {
  const [row] = await database.db.query<{ n: number }>(`select count(*)::int as n from ${from}`, [tenantId])
  return row!.n
}
const reverseAll = async () =>
  reverseDuplicates(database, await findDuplicates(database, { tenantId }), { severity: 'ticket' })

describe('a charge', () => {
  test('that one event made again, of the same code, is a duplicate for certain, however late', async () => {
    await charge({ event: 'e-1', session: randomUUID(), minutesAgo: 60 * 24 * 40 })
    const again = await charge({ event: 'e-1', session: randomUUID() })
    await charge({ event: 'e-1', code: 'ECG' })
    await charge({ event: 'e-2', session: randomUUID() })
    expect(await found()).toEqual([['event', again.id]])
    expect(await findDuplicates(database, { tenantId })).toMatchObject([
      { certain: true, transactionId: again.transactionId },
    ])
  })

  test('that two events of one session made is a duplicate for certain, even at another price', async () => {
    const session = randomUUID()
    await charge({ event: 'e-1', session, minutesAgo: 300 })
    const again = await charge({ event: 'e-2', session, amount: 60_000n })
    expect(await found()).toEqual([['session', again.id]])
  })

  test('of a second consultation on the same day is none: it is another session', async () => {
    await charge({ event: 'e-1', session: randomUUID(), minutesAgo: 9 })
    await charge({ event: 'e-2', session: randomUUID() })
    await charge({ minutesAgo: 400, code: 'ECG' })
    await charge({ minutesAgo: 200, code: 'ECG' })
    await charge({ minutesAgo: 200, code: 'ECG', patient: randomUUID() })
    await charge({ minutesAgo: 199, code: 'ECG', amount: 7n })
    expect(await found()).toEqual([])
  })

  test('that looks the same without an event may be right, and is told as such', async () => {
    const session = randomUUID()
    await charge({ session, code: 'LAB', minutesAgo: 90 })
    const lab = await charge({ session, code: 'LAB', minutesAgo: 50 })
    await charge({ code: 'ECG', minutesAgo: 12 })
    const ecg = await charge({ code: 'ECG', minutesAgo: 5 })
    expect(await found()).toEqual([
      ['fingerprint', lab.id],
      ['fingerprint', ecg.id],
    ])
    expect(await duplicateCharges(database, { tenantId }, { certain: true })).toEqual([])
  })

  test('that two events made is known by them, though it looks like another charge as well', async () => {
    const session = randomUUID()
    await charge({ event: 'e-1', session, minutesAgo: 20 })
    await charge({ minutesAgo: 15 })
    const again = await charge({ event: 'e-2', session, minutesAgo: 14 })
    expect(await found()).toEqual([
      ['session', again.id],
      ['fingerprint', expect.not.stringMatching(again.id)],
    ])
  })

  test('that was paid back is mended', async () => {
    await charge({ event: 'e-1' })
    const again = await charge({ event: 'e-1' })
    await asTenant(database.service, tenantId, async (tx) => {
      const asked = { tenantId, patientId, chargeId: again.id, amountMinor: 50_000n, currency: 'AFN' }
      const { id } = await requestRefund(tx, { ...asked, requestedBy: 'u-cashier' })
      await decideRefund(tx, { tenantId, refundId: id, by: 'u-supervisor', approve: true })
    })
    expect(await found()).toEqual([])
  })

  test('that was reversed is not paid back on top', async () => {
    await charge({ event: 'e-1' })
    const again = await charge({ event: 'e-1' })
    const asked = { tenantId, patientId, chargeId: again.id, amountMinor: 50_000n, currency: 'AFN' }
    const request = () =>
      asTenant(database.service, tenantId, (tx) => requestRefund(tx, { ...asked, requestedBy: 'u-cashier' }))
    const { id } = await request()
    await reverseAll()
    const approving = asTenant(database.service, tenantId, (tx) =>
      decideRefund(tx, { tenantId, refundId: id, by: 'u-supervisor', approve: true }),
    )
    await expect(approving).rejects.toMatchObject({ code: 'NOT_NEEDED' })
    await expect(request()).rejects.toMatchObject({ code: 'NOT_NEEDED' })
  })

  test('that costs nothing repeats nothing', async () => {
    await charge({ event: 'e-1', amount: 0n, posted: false })
    await charge({ event: 'e-1', amount: 0n, posted: false })
    expect(await found()).toEqual([])
  })

  test('is found within an account, and since a time', async () => {
    await charge({ event: 'e-1', minutesAgo: 90 })
    const again = await charge({ event: 'e-1', minutesAgo: 60 })
    const [mine] = await findDuplicates(database, { tenantId })
    const inAccount = (accountId: string) => findDuplicates(database, { accountId })
    expect(await inAccount(mine!.accountId!)).toMatchObject([{ chargeId: again.id }])
    expect(await inAccount(randomUUID())).toEqual([])
    const since = (minutes: number) =>
      findDuplicates(database, { tenantId, since: new Date(Date.now() - minutes * 60_000) })
    expect([(await since(61)).length, (await since(30)).length]).toEqual([1, 0])
  })
})

describe('a posting', () => {
  test('that no charge accounts for, with a twin that one does, is a duplicate; of two that none does, the later may be', async () => {
    const { transactionId } = await charge({ event: 'e-1' })
    const again = await post('made up by a retry', patientId, 50_000n)
    await post('manual', patientId, 700n)
    const manual = await post('manual too', patientId, 700n)
    await post('mending', patientId, 50_000n, 'adjustment')
    expect(await findDuplicates(database, { tenantId })).toMatchObject([
      {
        basis: 'posting',
        certain: true,
        transactionId: again,
        originalTransactionId: transactionId,
        amountMinor: 50_000n,
      },
      { basis: 'posting', certain: false, transactionId: manual, amountMinor: 700n },
    ])
    expect((await reverseAll()).reversed).toMatchObject([{ transactionId: again }, { transactionId: manual }])
    expect(await found()).toEqual([])
  })
})

test('the same paid again within a day under another key may be a duplicate; what was reversed, or differs, is none', async () => {
  await pays(900n, 'bill 7', 60)
  await pays(900n, 'bill 7', 30)
  const again = await pays(900n, 'bill 7', 7)
  await pays(900n, 'bill 8', 6)
  await pays(800n, 'bill 7', 6)
  await pays(900n, undefined, 5)
  const cash = await pays(900n, undefined)
  expect(await findDuplicates(database, { tenantId })).toMatchObject([
    { basis: 'fingerprint', certain: false, chargeId: null, transactionId: again, amountMinor: 900n },
    { basis: 'fingerprint', transactionId: cash },
  ])
  expect(await findDuplicates(database, { tenantId, since: new Date(Date.now() - 3_600_000) })).toHaveLength(
    1,
  )
  const findings = await examineDuplicates(database, { tenantId })
  expect(findings.map(({ severity, object, fix }) => [severity, object, fix])).toEqual(
    Array(2).fill([
      'warning',
      expect.stringMatching(/^account /),
      expect.stringMatching(/^tabib ledger reconcile [0-9a-f-]{36} --duplicates --dry-run$/),
    ]),
  )
  expect(await debt()).toBe(-6_200n)
  expect((await reverseAll()).reversed).toMatchObject([{ transactionId: again }, { transactionId: cash }])
  expect([await found(), await debt()]).toEqual([[], -4_400n])
})

describe('reversing', () => {
  test('takes the second charge back by a transaction that names the incident, once, and keeps the first', async () => {
    const session = randomUUID()
    await charge({ event: 'e-1', session })
    const again = await charge({ event: 'e-2', session })
    const duplicates = await findDuplicates(database, { tenantId })
    const { reversed } = await reverseDuplicates(database, duplicates, { severity: 'ticket' })
    expect(reversed).toMatchObject([{ transactionId: again.transactionId, again: false }])
    expect(await debt()).toBe(50_000n)
    expect(await found()).toEqual([])
    const [incident] = await listIncidents(database, { mode: 'billing/FM-08' })
    expect(await transaction(reversed[0]!.reversedBy)).toMatchObject({
      kind: 'reversal',
      reverses: again.transactionId,
      incident_id: incident!.id,
    })
    // The same plan once more, as after a crash, and by two at once.
    const more = await Promise.all(
      [1, 2].map(() => reverseDuplicates(database, duplicates, { severity: 'ticket' })),
    )
    expect(more.flatMap((one) => one.reversed.map((each) => each.again))).toEqual([true, true])
    expect(await debt()).toBe(50_000n)
    expect(await count(`tabib.incident where dedupe_key = 'billing/FM-08:' || $1`)).toBe(1)
  })

  test('posts a copy that was never posted by itself, so that the ledger tells of it', async () => {
    const first = await charge({ event: 'e-1' })
    await asTenant(database.service, tenantId, (tx) =>
      tx.query(
        `insert into billing.charge (tenant_id, patient_id, event_id, amount_minor, currency, code, transaction_id)
         select tenant_id, patient_id, event_id, amount_minor, currency, code, transaction_id from billing.charge where id = $1`,
        [first.id],
      ),
    )
    await charge({ event: 'e-1', posted: false })
    expect((await reverseAll()).reversed).toHaveLength(2)
    expect(await found()).toEqual([])
    expect(await debt()).toBe(50_000n)
    expect(await count('billing.entry where tenant_id = $1')).toBe(10)
  })

  test('that is killed half-way goes on under the same incident, and reverses once', async () => {
    await charge({ event: 'e-1' })
    await charge({ event: 'e-1' })
    const reverse = () =>
      execa(
        process.execPath,
        [join(packageRoot(), 'bin/run.js'), 'worker', 'run', 'duplicate-reversal', '--once'],
        {
          env: { TABIB_DATABASE_URL: database.url('tabib') },
          reject: false,
        },
      )
    await using owner = await database.owner.connection()
    await owner.query('begin')
    // It waits for the charge once it has its incident.
    await owner.query('lock table billing.charge in exclusive mode')
    const killed = reverse()
    await vi.waitUntil(
      async () => (await database.db.query('select from pg_locks where not granted')).length > 0,
      { timeout: 30_000, interval: 20 },
    )
    killed.kill('SIGKILL')
    await killed
    await owner.query('rollback')
    expect([await debt(), (await found()).length]).toEqual([100_000n, 1])
    await database.db.query('delete from tabib.worker_lease')
    expect((await reverse()).exitCode).toBe(0)
    expect([await debt(), (await found()).length]).toEqual([50_000n, 0])
    expect(await count(`tabib.incident where dedupe_key = 'billing/FM-08:' || $1 and occurrences = 1`)).toBe(
      1,
    )
  })

  test('by itself pages once, does what is certain alone, and leaves what is too much to two people', async () => {
    // What other tests left.
    await reverseCertainDuplicates(database)
    await charge({ event: 'e-1' })
    await charge({ event: 'e-1' })
    await charge({ code: 'ECG' })
    await charge({ code: 'ECG' })
    expect(await reverseCertainDuplicates(database)).toEqual({ reversed: 1, failed: 0, left: 0 })
    expect(await found()).toMatchObject([['fingerprint', expect.anything()]])
    for (let n = 0; n <= 51; n += 1) await charge({ event: 'e-2', posted: false, patient: randomUUID() })
    expect(await reverseCertainDuplicates(database)).toEqual({ reversed: 0, failed: 0, left: 51 })
    expect(
      await count(
        `tabib.incident where dedupe_key = 'billing/FM-08:' || $1 and severity = 'page' and occurrences = 1`,
      ),
    ).toBe(1)
  })

  test('of one that is on a frozen account is told as failed, and keeps no other back', async () => {
    const frozen = randomUUID()
    for (const patient of [frozen, patientId]) {
      await charge({ event: `e-${patient}`, patient })
      await charge({ event: `e-${patient}`, patient })
    }
    await database.db.query(
      `update billing.balance set frozen_at = now(), frozen_reason = 'drift', frozen_incident = gen_random_uuid()
       where account_id = (select id from billing.account where tenant_id = $1 and code = 'receivable:' || $2)`,
      [tenantId, frozen],
    )
    const { reversed, failed } = await reverseAll()
    expect(reversed).toHaveLength(1)
    expect(failed).toMatchObject([{ code: 'ACCOUNT_FROZEN' }])
    expect([await debt(), await debt(frozen)]).toEqual([50_000n, 100_000n])
  })
})

describe('ledger reconcile --duplicates', () => {
  const tabib = async (actor: string, ...argv: string[]) => {
    const { envelope, exitCode } = await runJson(argv, {
      TABIB_DATABASE_URL: database.url('tabib'),
      TABIB_ACTOR: actor,
      ...keys.env,
    })
    const { error, result } = envelope
    return { exitCode, code: error?.code, result }
  }
  const reconcile = (...argv: string[]) => tabib('ahmad@ops', 'ledger', 'reconcile', '--duplicates', ...argv)

  test('reverses what two people agreed on, and nothing else', { timeout: 60_000 }, async () => {
    for (const name of ['ahmad@ops', 'maryam@ops']) {
      const { publicJwk } = await keys.store.generate('ES256')
      await addOperator(database, { name, publicJwk, by: 'root' })
    }
    await charge({ event: 'e-1' })
    const again = await charge({ event: 'e-1' })
    await charge({ code: 'ECG', minutesAgo: 3 })
    const ecg = await charge({ code: 'ECG' })
    const scope = ['--tenant', tenantId]
    const all = await reconcile(...scope, '--dry-run')
    expect(all.result.plan.duplicates).toMatchObject([
      { chargeId: again.id },
      { chargeId: ecg.id, certain: false },
    ])
    const { planHash } = (await reconcile(...scope, '--except', ecg.id, '--dry-run')).result
    const apply = ['--except', ecg.id, '--apply', planHash, '--confirm', tenantId, '--reason', 'retried']
    expect(await reconcile(...scope, ...apply)).toMatchObject({ exitCode: 5, code: 'APPROVAL_REQUIRED' })

    const folder = await mkdtemp(join(tmpdir(), 'tabib-approval-'))
    const file = join(folder, 'approval.jws')
    await tabib('maryam@ops', 'approval', 'create', planHash, '--reason', 'two clicks', '--file', file)
    const forged = join(folder, 'forged.jws')
    await writeFile(forged, (await readFile(file, 'utf8')).replace(/\.[^.]*$/, '.AAAA'))
    const forgery = await reconcile(...scope, ...apply, '--approval', forged)
    expect(forgery).toMatchObject({ exitCode: 4, code: 'APPROVAL_INVALID' })
    // Another duplicate has come since the plan was made.
    const late = await charge({ event: 'e-1' })
    const stale = await reconcile(...scope, ...apply, '--approval', file)
    expect(stale).toMatchObject({ exitCode: 6, code: 'PLAN_STALE' })
    expect(await debt()).toBe(250_000n)

    const done = await reconcile(...scope, '--except', late.id, ...apply, '--approval', file)
    expect(done).toMatchObject({ exitCode: 0 })
    expect(done.result.reversed).toMatchObject([{ transactionId: again.transactionId }])
    expect(await debt()).toBe(200_000n)
    const [incident] = await listIncidents(database, { mode: 'billing/FM-08' })
    expect(done.result.reversed[0].incidentId).toBe(incident!.id)
    await rm(folder, { recursive: true })
  })

  test('names what it was given wrong', async () => {
    const wrong = (...argv: string[]) => reconcile(...argv, '--dry-run')
    expect(await wrong()).toMatchObject({ exitCode: 2, code: 'USAGE' })
    expect(await wrong('--tenant', 'nobody')).toMatchObject({ exitCode: 2, code: 'NOT_FOUND' })
    expect(await wrong(randomUUID())).toMatchObject({ exitCode: 2, code: 'ACCOUNT_UNKNOWN' })
    expect(await wrong('nonsense')).toMatchObject({ exitCode: 2, code: 'ACCOUNT_UNKNOWN' })
    expect(await wrong('--tenant', tenantId, '--except', 'x')).toMatchObject({
      exitCode: 2,
      code: 'NOT_FOUND',
    })
  })
})

// Last, since no posting finds its key any more.
describe('without its index', () => {
  test('a business key that was taken twice shows the second', async () => {
    const { transactionId } = await charge({ event: 'e-1' })
    await database.owner.query(
      'alter table billing.journal_transaction drop constraint journal_transaction_tenant_id_business_key_key',
    )
    const again = randomUUID()
    await database.owner.connection().then(async (connection) => {
      await using owner = connection
      await owner.query('begin')
      await owner.query(`select set_config('app.tenant_id', $1, true)`, [tenantId])
      await owner.query(
        `insert into billing.journal_transaction (tenant_id, id, kind, business_key)
         select tenant_id, $2, kind, business_key from billing.journal_transaction where id = $1`,
        [transactionId, again],
      )
      await owner.query(
        `insert into billing.entry (tenant_id, account_id, seq, transaction_id, amount_minor, currency, balance_minor)
         select tenant_id, account_id, seq + 1, $2, amount_minor, currency, balance_minor + amount_minor
         from billing.entry where transaction_id = $1`,
        [transactionId, again],
      )
      await owner.query('commit')
    })
    expect(await findDuplicates(database, { tenantId })).toMatchObject([
      { basis: 'posting', certain: true, transactionId: again },
    ])
  })
})
