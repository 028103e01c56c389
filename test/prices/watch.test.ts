import { beforeEach, describe, expect, test } from 'vitest'
import { applyExtension, planExtension } from '../../src/domain/prices/extend.ts'
import { PRICE_NOTICE_MS, priceLapses } from '../../src/domain/prices/lapses.ts'
import { countPriceRefusal, priceRefusalSpikes } from '../../src/domain/prices/refusals.ts'
import { watchPrices } from '../../src/domain/prices/watch.ts'
import { asTenant } from '../../src/domain/sessions/tenant.ts'
import { useDatabase } from '../support/database.ts'
import { liveTenant } from '../support/tenant.ts'

const database = useDatabase()
const DAY_MS = 86_400_000
let tenantId: string

beforeEach(async () => {
  await database.db.query('delete from billing.price_refusal')
  // The tenants of other tests have nothing that ends.
  await database.service.query('select')
  for (const { id } of await database.db.query<{ id: string }>('select id from tabib.tenant'))
    await asTenant(database.service, id, async (tx) => {
      await tx.query('delete from billing.price')
      await tx.query('delete from billing.price_list')
    })
  tenantId = await liveTenant(database.db)
  await asTenant(database.service, tenantId, (tx) =>
    tx.query(`insert into billing.item (tenant_id, code) values ($1, 'CONSULT'), ($1, 'ECG')`, [tenantId]),
  )
})

/** A list from day to day, seen from now; without an end it holds for good. */
const list = (name: string, from: number, to: number | null, items = ['CONSULT', 'ECG'], currency = 'AFN') =>
  asTenant(database.service, tenantId, (tx) =>
    tx.query(
      `with list as (
         insert into billing.price_list (tenant_id, name, currency, effective)
         values ($1, $2, $6, tstzrange(date_trunc('hour', now()) + make_interval(days => $3) + interval '7 us',
           date_trunc('hour', now()) + make_interval(days => $4) + interval '7 us')) returning id)
       insert into billing.price (tenant_id, price_list_id, item_code, amount_minor)
       select $1, id, unnest($5::text[]), 50000 from list`,
      [tenantId, name, from, to, items, currency],
    ),
  )
const lapses = async (withinMs = PRICE_NOTICE_MS) =>
  (await priceLapses(database, { withinMs })).map(({ list, whole, items }) => ({ list, whole, items }))
const all = ['CONSULT', 'ECG']

describe('a price list', () => {
  test('that does not end, or ends later, is no concern', async () => {
    await list('standing', -400, null)
    await list('dollars', -400, 8, all, 'USD')
    expect(await lapses()).toEqual([])
    expect(await lapses(9 * DAY_MS)).toEqual([{ list: 'dollars', whole: true, items: all }])
  })

  test('that ends within seven days with nothing after it is told, and one in another currency does not follow it', async () => {
    await list('old', -400, 6)
    await list('dollars', -1, null, all, 'USD')
    expect(await lapses()).toEqual([{ list: 'old', whole: true, items: all }])
  })

  test('that is followed at once is no concern; after a gap it is', async () => {
    await list('old', -400, 3)
    await list('next', 3, null)
    expect(await lapses()).toEqual([])
    await list('dollars', -400, 3, all, 'USD')
    await list('later dollars', 4, null, all, 'USD')
    expect(await lapses()).toEqual([{ list: 'dollars', whole: true, items: all }])
  })

  test('whose successors end within seven days as well is not the one that ends', async () => {
    await list('old', -400, 2)
    await list('bridge', 1, 5)
    expect(await lapses()).toEqual([{ list: 'bridge', whole: true, items: all }])
  })

  test('whose successor lacks an item that is for sale is told with it', async () => {
    await list('old', -400, 3)
    await list('next', 3, null, ['CONSULT'])
    expect(await lapses()).toEqual([{ list: 'old', whole: false, items: ['ECG'] }])
    await asTenant(database.service, tenantId, (tx) =>
      tx.query(`update billing.item set sellable = false where code = 'ECG'`),
    )
    expect(await lapses()).toEqual([])
  })

  test('that has ended stays until another holds, in the currency that is charged', async () => {
    await list('ancient', -400, -300)
    await list('old', -300, -1)
    await list('dollars', -300, -1, all, 'USD')
    await list('empty', -400, -200, [], 'EUR')
    expect(await lapses()).toEqual([{ list: 'old', whole: true, items: all }])
    await list('new', -1, null)
    expect(await lapses()).toEqual([])
  })

  test('without prices must be followed too', async () => {
    await list('bare', -1, 3, [])
    expect(await lapses()).toEqual([{ list: 'bare', whole: true, items: [] }])
  })
})

describe('extending', () => {
  test('lets prices hold on, up to what follows, and changes no price', async () => {
    await list('old', -400, 2)
    await list('next', 4, null, ['CONSULT'])
    const plan = await planExtension(database, { withinMs: PRICE_NOTICE_MS, byMs: 30 * DAY_MS })
    expect(await applyExtension(database, plan)).toEqual({ extended: 1 })
    expect(await applyExtension(database, plan)).toEqual({ extended: 0 })
    // The gap is closed to the microsecond; what the following list lacks is another matter.
    expect(await lapses()).toEqual([{ list: 'old', whole: false, items: ['ECG'] }])
    const rest = await planExtension(database, { withinMs: PRICE_NOTICE_MS, byMs: 30 * DAY_MS })
    expect(await applyExtension(database, rest)).toEqual({ extended: 1 })
    expect(await lapses(90 * DAY_MS)).toEqual([])
    const prices = await database.db.query<{ amount: bigint }>(
      'select distinct amount_minor as amount from billing.price where tenant_id = $1',
      [tenantId],
    )
    expect(prices).toEqual([{ amount: 50_000n }])
  })

  test('takes up what has ended from now on', async () => {
    await list('old', -400, -20)
    await applyExtension(
      database,
      await planExtension(database, { withinMs: PRICE_NOTICE_MS, byMs: 30 * DAY_MS }),
    )
    expect(await lapses(29 * DAY_MS)).toEqual([])
  })
})

describe('refusals', () => {
  const refuse = (itemCode: string, times: number) =>
    Promise.all(Array.from({ length: times }, () => countPriceRefusal(database.db, { tenantId, itemCode })))
  const before = (n: number) =>
    database.db.query(
      `insert into billing.price_refusal select $1, date_trunc('minute', now()) - make_interval(mins => m), 'ECG', $2
       from generate_series(10, 60) m`,
      [tenantId, n],
    )
  const spikes = async () => (await priceRefusalSpikes(database)).map(({ item }) => item)

  test('of an item spike at ten in five minutes, and no more once it has a price', async () => {
    await refuse('ECG', 9)
    expect(await spikes()).toEqual([])
    await refuse('ECG', 1)
    expect(await spikes()).toEqual(['ECG'])
    await list('new', 0, null)
    expect(await spikes()).toEqual([])
  })

  test('that come all day at the same rate are no spike', async () => {
    await before(3)
    await refuse('ECG', 15)
    expect(await spikes()).toEqual([])
    await refuse('ECG', 40)
    expect(await spikes()).toEqual(['ECG'])
  })
})

test('the watch opens one ticket a list, and closes it when its prices go on', async () => {
  await list('old', -400, 6)
  expect(await watchPrices(database)).toEqual({ opened: 1, closed: 0 })
  expect(await watchPrices(database)).toEqual({ opened: 0, closed: 0 })
  const incidents = () =>
    database.db.query(
      `select severity, state, occurrences from tabib.incident where mode = 'billing/FM-14' and dedupe_key like $1`,
      [`%${tenantId}%`],
    )
  expect(await incidents()).toEqual([{ severity: 'ticket', state: 'open', occurrences: 1 }])
  await list('next', 6, null)
  expect(await watchPrices(database)).toEqual({ opened: 0, closed: 1 })
  expect(await incidents()).toMatchObject([{ state: 'resolved' }])
})
