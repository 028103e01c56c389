import { randomUUID } from 'node:crypto'
import { join } from 'node:path'
import { execa } from 'execa'
import { beforeEach, describe, expect, test, vi } from 'vitest'
import { openPager } from '../../src/adapters/pager/client.ts'
import type { Transaction } from '../../src/adapters/postgres/client.ts'
import { deliverPages } from '../../src/domain/incident/deliver.ts'
import { listIncidents } from '../../src/domain/incident/list.ts'
import { resolveIncident } from '../../src/domain/incident/resolve.ts'
import { escalateRefunds, planEscalation, watchRefunds } from '../../src/domain/payments/escalate-refunds.ts'
import { decideRefund, type NewRefund, payRefund, requestRefund } from '../../src/domain/payments/refund.ts'
import { listRefunds, refundCounts } from '../../src/domain/payments/refund-queue.ts'
import { asTenant } from '../../src/domain/sessions/tenant.ts'
import { packageRoot } from '../../src/package-root.ts'
import { startPhone } from '../../src/sandbox/simulators/phone.ts'
import { useDatabase } from '../support/database.ts'
import { liveTenant } from '../support/tenant.ts'

const database = useDatabase()
let tenantId: string

beforeEach(async () => {
  // Those of other tests were all decided long ago.
  for (const { id } of await database.db.query<{ id: string }>('select id from tabib.tenant'))
    await inTenant(id, (tx) =>
      tx.query(
        `update billing.refund set requested_at = now() - interval '9 days', decided_at = now() - interval '8 days',
           state = 'rejected', paid_at = null, decided_by = 'u-test'`,
      ),
    )
  await database.owner.query(`update tabib.incident set state = 'resolved'`)
  tenantId = await liveTenant(database.db)
})

const inTenant = <T>(id: string, work: (tx: Transaction) => Promise<T>) =>
  asTenant(database.service, id, work)
const approvers = (names: unknown) =>
  database.db.query('insert into tabib.tenant_profile (tenant_id, document) values ($1, $2)', [
    tenantId,
    JSON.stringify({ refunds: { approvers: names } }),
  ])
const request = (count: number, hoursAgo: number, refund: Partial<NewRefund> = {}) =>
  inTenant(tenantId, async (tx) => {
    const ids: string[] = []
    for (let n = 0; n < count; n += 1) {
      const made = {
        tenantId,
        patientId: randomUUID(),
        amountMinor: 700n,
        currency: 'AFN',
        requestedBy: 'u-cashier',
      }
      ids.push((await requestRefund(tx, { ...made, ...refund })).id)
    }
    await tx.query(
      'update billing.refund set requested_at = clock_timestamp() - make_interval(secs => $2) where id = any($1)',
      [ids, hoursAgo * 3_600],
    )
    return ids
  })
const decide = (refundId: string, by: string, approve = true) =>
  inTenant(tenantId, (tx) => decideRefund(tx, { tenantId, refundId, by, approve }))
const balances = () =>
  database.db.query<{ code: string; balance: bigint }>(
    `select code, balance_minor as balance from billing.balance join billing.account on id = account_id
     where balance.tenant_id = $1 order by code`,
    [tenantId],
  )
const calls = async () =>
  (await listIncidents(database, { mode: 'billing/FM-10' }))
    .map(({ dedupeKey, occurrences }) => `${dedupeKey.split(':')[2] ?? 'ops'} ${occurrences}`)
    .sort()

describe('a refund', () => {
  test('is posted when another person approves it, and again when it is paid, once each', async () => {
    const [id] = await request(1, 0)
    expect(await decide(id!, 'u-supervisor')).toEqual({ again: false })
    expect(await decide(id!, 'u-supervisor')).toEqual({ again: true })
    expect(await balances()).toEqual([
      { code: 'refunds', balance: 700n },
      { code: 'refunds-payable', balance: -700n },
    ])
    const pay = () => inTenant(tenantId, (tx) => payRefund(tx, { tenantId, refundId: id!, from: 'cash' }))
    expect([await pay(), await pay()]).toEqual([{ again: false }, { again: true }])
    expect(await balances()).toEqual([
      { code: 'cash', balance: -700n },
      { code: 'refunds', balance: 700n },
      { code: 'refunds-payable', balance: 0n },
    ])
  })

  test('is not decided by whoever asked for it, in the database neither', async () => {
    const [id] = await request(1, 0)
    await expect(decide(id!, 'u-cashier')).rejects.toMatchObject({ code: 'NOT_AUTHORISED' })
    await expect(
      inTenant(tenantId, (tx) =>
        tx.query(
          `update billing.refund set state = 'approved', decided_by = requested_by, decided_at = now() where id = $1`,
          [id],
        ),
      ),
    ).rejects.toThrow('refund_needs_two_people')
    expect(await balances()).toEqual([])
  })

  test('that was rejected is not approved or paid, and one of another tenant is not there', async () => {
    const [id] = await request(1, 0)
    await decide(id!, 'u-supervisor', false)
    await expect(decide(id!, 'u-supervisor')).rejects.toMatchObject({ code: 'NOT_NEEDED' })
    await expect(
      inTenant(tenantId, (tx) => payRefund(tx, { tenantId, refundId: id!, from: 'cash' })),
    ).rejects.toMatchObject({ code: 'NOT_NEEDED' })
    await expect(decide(randomUUID(), 'u-supervisor')).rejects.toMatchObject({ code: 'NOT_FOUND' })
    expect(await balances()).toEqual([])
  })

  test('is of a positive amount, and all refunds of a charge are no more than it was', async () => {
    const patientId = randomUUID()
    const [charge] = await inTenant(tenantId, (tx) =>
      tx.query<{ id: string }>(
        `insert into billing.charge (tenant_id, patient_id, amount_minor, currency, code)
         values ($1, $2, 1000, 'AFN', 'ECG') returning id`,
        [tenantId, patientId],
      ),
    )
    const ask = { patientId, chargeId: charge!.id }
    await expect(request(1, 0, { amountMinor: 0n })).rejects.toMatchObject({ code: 'AMOUNT_INVALID' })
    await request(1, 0, ask)
    await expect(request(1, 0, ask)).rejects.toMatchObject({ code: 'AMOUNT_INVALID' })
    await expect(request(1, 0, { ...ask, currency: 'USD' })).rejects.toMatchObject({ code: 'NOT_FOUND' })
    await expect(request(1, 0, { chargeId: charge!.id })).rejects.toMatchObject({ code: 'NOT_FOUND' })
  })
})

describe('requested less approved', () => {
  const allDay = async () => (await refundCounts(database)).undecided24h

  test('counts what waited at every moment of a day', async () => {
    await request(60, 25)
    await request(5, 23)
    expect(await allDay()).toBe(60)
  })

  test('was low for a moment and is high again: that is not 24 hours', async () => {
    const ids = await request(60, 30)
    for (const id of ids.slice(0, 40)) await decide(id, 'u-supervisor', id === ids[0])
    await request(60, 0.1)
    await inTenant(tenantId, (tx) =>
      tx.query(
        `update billing.refund set decided_at = now() - interval '3 hours' where state <> 'requested'`,
      ),
    )
    expect(await allDay()).toBe(20)
  })
})

describe('the watch', () => {
  test('calls nobody while 50 are stuck, and each once when 51 are', async () => {
    await approvers(['u-supervisor', 'u-head'])
    await request(50, 25, { clinician: 'u-clinician' })
    expect(await watchRefunds(database)).toEqual({ refunds: 0, opened: 0, closed: 0 })
    // The clinician asked for this one: it is a supervisor's to decide.
    await request(1, 25, { clinician: 'u-head', requestedBy: 'u-head' })
    expect(await watchRefunds(database)).toEqual({ refunds: 51, opened: 3, closed: 0 })
    expect(await calls()).toEqual(['ops 1', 'u-clinician 1', 'u-supervisor 1'])
    expect(await watchRefunds(database)).toEqual({ refunds: 0, opened: 0, closed: 0 })
    expect(
      (await listRefunds(database, { tenantId, limit: 60 })).every(({ escalatedAt }) => escalatedAt),
    ).toBe(true)
  })

  test('pages nobody again for the same refunds, even when an incident was closed meanwhile', async () => {
    await request(51, 25, { clinician: 'u-clinician' })
    await watchRefunds(database)
    for (const { id } of await listIncidents(database, { mode: 'billing/FM-10' }))
      await resolveIncident(database, { id, by: 'u-ops' })
    expect(await watchRefunds(database)).toEqual({ refunds: 0, opened: 0, closed: 0 })
    await request(1, 25, { clinician: 'u-clinician' })
    expect(await watchRefunds(database)).toEqual({ refunds: 1, opened: 2, closed: 0 })
  })

  test('closes the incidents of those who have decided', async () => {
    const ids = await request(51, 25, { clinician: 'u-clinician' })
    await watchRefunds(database)
    for (const id of ids) await decide(id, 'u-clinician')
    expect(await watchRefunds(database)).toEqual({ refunds: 0, opened: 0, closed: 2 })
  })

  test('and a command at the same moment call each person once', async () => {
    await request(60, 25, { clinician: 'u-clinician' })
    const plan = await planEscalation(database)
    const all = await Promise.all([
      watchRefunds(database),
      escalateRefunds(database, plan),
      escalateRefunds(database, plan),
    ])
    expect(all.map(({ refunds }) => refunds).sort()).toEqual([0, 0, 60])
    expect(await calls()).toEqual(['ops 1', 'u-clinician 1'])
  })

  test('that is killed between two calls has called nobody, and the next one calls each once', async () => {
    await request(51, 25, { clinician: 'u-clinician' })
    await using owner = await database.owner.connection()
    // Ops are called first; the clinician's incident waits for this one, which never commits.
    await owner.query('begin')
    await owner.query(
      `insert into tabib.incident (dedupe_key, severity, mode, title) values ($1, 'page', 'billing/FM-10', 'x')`,
      [`billing/FM-10:${tenantId}:u-clinician`],
    )
    const escalate = () =>
      execa(process.execPath, [join(packageRoot(), 'bin/run.js'), 'refunds', 'escalate', '--yes', '--json'], {
        env: { TABIB_DATABASE_URL: database.url('tabib') },
        reject: false,
      })
    const first = escalate()
    await vi.waitUntil(
      async () =>
        (await database.db.query(`select from pg_locks where not granted and locktype = 'transactionid'`))
          .length > 0,
      { timeout: 30_000, interval: 20 },
    )
    first.kill('SIGKILL')
    await first
    await owner.query('rollback')
    expect(await calls()).toEqual([])
    const second = await escalate()
    expect(JSON.parse(second.stdout).result).toMatchObject({ refunds: 51, opened: 2 })
    await using phone = await startPhone(async () => {})
    const pager = openPager({ fetch, webhookUrl: phone.url })
    for (let n = 0; n < 2; n += 1) await deliverPages({ db: database.db, pager })
    expect(phone.pages.flatMap(({ notify }) => notify).sort()).toEqual(['ops', 'u-clinician'])
  })

  test('calls ops alone where a tenant names no approver', async () => {
    await approvers('nobody, really')
    await request(51, 25)
    // A name alone is one approver; a profile without any is none.
    expect(await watchRefunds(database)).toMatchObject({ refunds: 51, opened: 2 })
    expect(await calls()).toEqual(['nobody, really 1', 'ops 1'])
  })
})
