import { beforeEach, describe, expect, test } from 'vitest'
import { loadConfig } from '../src/config.ts'
import {
  outboxClimb,
  outboxLag,
  outboxPending,
  relayLiveness,
  sampleOutbox,
} from '../src/domain/outbox/backlog.ts'
import { useDatabase } from './support/database.ts'

const database = useDatabase()
const config = loadConfig({ env: {}, cwd: '/' })
const reader = () => ({ db: database.db, config })
const billing = { service: 'billing' } as const

beforeEach(async () => {
  await database.owner.query('delete from billing.outbox')
  await database.owner.query('truncate tabib.outbox_progress, tabib.outbox_sample')
  await database.owner.query(
    `update tabib.outbox_lease set holder = null, released = true, expires_at = '-infinity' where service = 'billing'`,
  )
})

async function produce(count: number, ageS: number) {
  await database.owner.query(
    `insert into billing.outbox (tenant_id, aggregate_type, aggregate_id, type, data, created_at)
     select gen_random_uuid(), 'charge', i::text, 'captured', '{}', now() - make_interval(secs => $2)
     from generate_series(1, $1) i`,
    [count, ageS],
  )
}

/** Says that everything visible now is published; with `afterSeq` only up to that event of a window under way. */
async function published({ afterSeq }: { afterSeq?: number } = {}) {
  await database.owner.query(
    `insert into tabib.outbox_progress (service, epoch, n, done, target, after_seq, system_identifier, database_oid)
     select 'billing', 1, coalesce((select max(n) from tabib.outbox_progress), 0) + 1,
            case when $1::bigint is null then pg_current_snapshot() else '3:3:' end,
            case when $1::bigint is not null then pg_current_snapshot() end,
            coalesce($1, 0), c.system_identifier::text, d.oid
     from pg_control_system() c, pg_database d where d.datname = current_database()`,
    [afterSeq ?? null],
  )
}

describe('pending and lag', () => {
  test('are zero when everything is published', async () => {
    await produce(3, 60)
    await published()
    expect(await outboxPending(reader(), billing)).toBe(0)
    expect(await outboxLag(reader(), billing)).toBe(0)
  })

  test('count what was committed since, and tell the age of the oldest', async () => {
    await produce(3, 600)
    await published()
    await produce(2, 45)
    await produce(1, 5)
    expect(await outboxPending(reader(), billing)).toBe(3)
    const lagS = await outboxLag(reader(), billing)
    expect(lagS).toBeGreaterThanOrEqual(45)
    expect(lagS).toBeLessThan(75)
  })

  test('leave out what is already published of a window under way', async () => {
    await produce(1, 600)
    await produce(4, 45)
    const rows = await database.owner.query<{ seq: bigint }>(
      'select seq from billing.outbox order by seq limit 2',
    )
    await published({ afterSeq: Number(rows[1]?.seq) })
    await produce(1, 5)
    expect(await outboxPending(reader(), billing)).toBe(4)
    expect(await outboxLag(reader(), billing)).toBeLessThan(75)
  })

  test('see an event whose transaction was open when the position was saved', async () => {
    await database.owner.transaction(async (tx) => {
      await tx.query(
        `insert into billing.outbox (tenant_id, aggregate_type, aggregate_id, type, data)
         values (gen_random_uuid(), 'charge', 'late', 'captured', '{}')`,
      )
      await database.db.query(`select pg_current_xact_id()`)
      await published()
    })
    expect(await outboxPending(reader(), billing)).toBe(1)
  })

  test('are refused after a restore from a dump', async () => {
    await published()
    await database.owner.query(`update tabib.outbox_progress set system_identifier = '1'`)
    await expect(outboxPending(reader(), billing)).rejects.toMatchObject({ code: 'OUTBOX_RESTORED' })
  })
})

describe('a climb', () => {
  const climb = () => outboxClimb(reader(), { ...billing, overS: 120 })
  async function samples(figures: (i: number) => [pending: number, lagS: number]) {
    for (let i = 0; i < 12; i++) {
      await database.db.query(
        `insert into tabib.outbox_sample (service, at, pending, lag_s)
         values ('billing', now() - make_interval(secs => $1), $2, $3)`,
        [115 - i * 10, ...figures(i)],
      )
    }
  }

  test('is seen while pending and lag both rise', async () => {
    await samples((i) => [i * 10, i * 10])
    await produce(120, 120)
    expect((await climb()).value).toBeGreaterThan(0)
  })

  test('is over as soon as the backlog is drained', async () => {
    await samples((i) => [i * 10, i * 10])
    expect((await climb()).value).toBeLessThanOrEqual(0)
  })

  test.each([
    ['a standing backlog', () => [120, 60]],
    ['a draining backlog', (i: number) => [1200 - i * 100, 120 - i * 10]],
    ['a rising lag alone', (i: number) => [120, i * 10]],
    ['the ups and downs of normal work', (i: number) => [(i * 7) % 5, ((i * 7) % 5) / 1000]],
  ] as [string, (i: number) => [number, number]][])('is not seen in %s', async (_, figures) => {
    await samples(figures)
    await produce(120, 120)
    expect((await climb()).value).toBeLessThanOrEqual(0)
  })

  test('is unknown by the figures of now alone, and with one sample', async () => {
    expect((await climb()).value).toBeUndefined()
    await produce(2, 30)
    await sampleOutbox(reader(), billing)
    expect(await climb()).toMatchObject({ value: undefined, evidence: { pending: 2, samples: 2 } })
  })
})

describe('a relay', () => {
  const lease = (s: number) =>
    database.db.query(
      `update tabib.outbox_lease
       set holder = 'kandahar:1', released = false, expires_at = now() + make_interval(secs => $1)
       where service = 'billing'`,
      [s],
    )

  test('that holds its lease is alive, whatever waits', async () => {
    await produce(1, 600)
    await lease(5)
    expect(await relayLiveness(reader(), billing)).toMatchObject({ live: 1, holder: 'kandahar:1' })
  })

  test('whose lease ran out is not alive while events wait', async () => {
    await lease(-20)
    expect((await relayLiveness(reader(), billing)).live).toBe(1)
    await produce(1, 30)
    expect(await relayLiveness(reader(), billing)).toMatchObject({ live: 0, holder: 'kandahar:1' })
  })
})
