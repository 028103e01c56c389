import { randomUUID } from 'node:crypto'
import fc from 'fast-check'
import { afterEach, describe, expect, test } from 'vitest'
import type { Connection } from '../../src/adapters/postgres/client.ts'
import { loadConfig } from '../../src/config.ts'
import { outboxLag, outboxPending } from '../../src/domain/outbox/backlog.ts'
import { acquireLease, type Lease, releaseLease } from '../../src/domain/outbox/lease.ts'
import { loadPosition, NOTHING_DONE, type Position, savePosition } from '../../src/domain/outbox/position.ts'
import { outboxSource } from '../../src/domain/outbox/source.ts'
import { openWindowReader, type WindowReader } from '../../src/domain/outbox/window.ts'
import { useDatabase } from '../support/database.ts'

const SERVICE = 'billing'
const database = useDatabase()
const app = () => ({ db: database.db, config: loadConfig({ env: {}, cwd: '/' }) })

afterEach(async () => {
  await database.owner.query('truncate billing.outbox')
  await database.owner.query('truncate tabib.outbox_progress')
})

const INSERT = `insert into billing.outbox (id, tenant_id, aggregate_type, aggregate_id, type, data)
                values ($1, gen_random_uuid(), 'charge', $2, 'captured', '{}')`

async function insert(connection: Pick<Connection, 'query'>, aggregate: string): Promise<string> {
  const id = randomUUID()
  await connection.query(INSERT, [id, aggregate])
  return id
}

interface Published {
  id: string
  aggregate: string
}

/** Reads as the relay does, from what it saved last, and takes a page for published once its position is saved. */
class Follower {
  readonly published: Published[] = []
  readonly #lease: Lease
  #connection: Connection
  #reader: WindowReader
  #position: Position

  private constructor(lease: Lease, connection: Connection, reader: WindowReader, position: Position) {
    this.#lease = lease
    this.#connection = connection
    this.#reader = reader
    this.#position = position
  }

  static async start(): Promise<Follower> {
    const attempt = await acquireLease(
      { db: database.db },
      { service: SERVICE, holder: randomUUID(), ttlMs: 60_000 },
    )
    if (attempt.kind === 'standby') throw new Error(`${attempt.holder} holds the lease`)
    return new Follower(attempt.lease, ...(await Follower.#open()))
  }

  static async #open(): Promise<[Connection, WindowReader, Position]> {
    const connection = await database.db.connection()
    // Set anew at almost every look, the mark moves as it does in hours of a real relay.
    const reader = await openWindowReader(connection, outboxSource(SERVICE), {
      maxDataBytes: 1_048_576,
      markEvery: 2,
    })
    return [connection, reader, await loadPosition({ db: database.db }, SERVICE)]
  }

  /** One page; whether there was one. */
  async look(limit: number): Promise<boolean> {
    const page = await this.#reader.read(this.#position, limit)
    if (!page) return false
    this.#position = page.after
    this.published.push(...page.rows.map(({ id, aggregateId }) => ({ id, aggregate: aggregateId })))
    await savePosition({ db: database.db }, this.#lease, page.after)
    return true
  }

  /** All that is there, as a stream. */
  async stream(pageRows: number): Promise<void> {
    for await (const page of this.#reader.pages(this.#position, { pageRows, rows: 3 * pageRows })) {
      this.#position = page.after
      this.published.push(...page.rows.map(({ id, aggregateId }) => ({ id, aggregate: aggregateId })))
    }
    await savePosition({ db: database.db }, this.#lease, this.#position)
  }

  async restart(): Promise<void> {
    await this.#connection[Symbol.asyncDispose]()
    ;[this.#connection, this.#reader, this.#position] = await Follower.#open()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#connection[Symbol.asyncDispose]()
    await releaseLease({ db: database.db }, this.#lease)
  }
}

describe('a reader of windows', () => {
  const AGGREGATES = 4
  const PRODUCERS = 5
  const step = fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({
        kind: fc.constant('insert'),
        who: fc.nat(PRODUCERS - 1),
        n: fc.nat(AGGREGATES - 1),
      }),
    },
    // An id without a row: of a transaction that writes elsewhere first, or for good.
    {
      weight: 2,
      arbitrary: fc.record({ kind: fc.constant('id'), who: fc.nat(PRODUCERS - 1), n: fc.constant(0) }),
    },
    {
      weight: 3,
      arbitrary: fc.record({ kind: fc.constant('commit'), who: fc.nat(PRODUCERS - 1), n: fc.constant(0) }),
    },
    {
      weight: 1,
      arbitrary: fc.record({ kind: fc.constant('rollback'), who: fc.nat(PRODUCERS - 1), n: fc.constant(0) }),
    },
    {
      weight: 1,
      arbitrary: fc.record({
        kind: fc.constant('undo'),
        who: fc.nat(PRODUCERS - 1),
        n: fc.nat(AGGREGATES - 1),
      }),
    },
    {
      weight: 4,
      arbitrary: fc.record({
        kind: fc.constant('look'),
        who: fc.constant(0),
        n: fc.integer({ min: 1, max: 4 }),
      }),
    },
    {
      weight: 1,
      arbitrary: fc.record({
        kind: fc.constant('stream'),
        who: fc.constant(0),
        n: fc.integer({ min: 1, max: 4 }),
      }),
    },
    {
      weight: 1,
      arbitrary: fc.record({ kind: fc.constant('restart'), who: fc.constant(0), n: fc.constant(0) }),
    },
  )

  test('finds every committed event once and in its aggregate’s order, however transactions overlap', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 60 }), async (steps) => {
        await database.owner.query('truncate billing.outbox')
        await database.owner.query('truncate tabib.outbox_progress')
        await using follower = await Follower.start()
        const producers = await Promise.all(
          Array.from({ length: PRODUCERS }, async () => ({
            connection: await database.service.connection(),
            open: false,
            wrote: [] as Published[],
          })),
        )
        const committed: Published[] = []
        const end = async (producer: (typeof producers)[number], how: 'commit' | 'rollback') => {
          if (!producer.open) return
          await producer.connection.query(how)
          if (how === 'commit') committed.push(...producer.wrote)
          producer.open = false
          producer.wrote = []
        }
        try {
          for (const { kind, who, n } of steps) {
            const producer = producers[who]!
            if (kind === 'look') await follower.look(n)
            else if (kind === 'stream') await follower.stream(n)
            else if (kind === 'restart') await follower.restart()
            else if (kind === 'commit' || kind === 'rollback') await end(producer, kind)
            else {
              const aggregate = `a${n}`
              // As if by the lock of the aggregate's row.
              const held = producers.some(
                (other) => other !== producer && other.wrote.some((e) => e.aggregate === aggregate),
              )
              if (kind !== 'id' && held) continue
              if (!producer.open) await producer.connection.query('begin')
              producer.open = true
              if (kind === 'id') await producer.connection.query('select pg_current_xact_id()')
              else if (kind === 'undo') {
                await producer.connection.query('savepoint s')
                await insert(producer.connection, aggregate)
                await producer.connection.query('rollback to s')
              } else producer.wrote.push({ id: await insert(producer.connection, aggregate), aggregate })
            }
          }
          for (const producer of producers) await end(producer, 'commit')
          const pending = committed.length - follower.published.length
          expect(await outboxPending(app(), { service: SERVICE })).toBe(pending)
          expect((await outboxLag(app(), { service: SERVICE })) > 0).toBe(pending > 0)
          while (await follower.look(3));
          for (let n = 0; n < AGGREGATES; n++) {
            const of = (events: Published[]) =>
              events.filter(({ aggregate }) => aggregate === `a${n}`).map(({ id }) => id)
            expect(of(follower.published)).toEqual(of(committed))
          }
          expect(await outboxPending(app(), { service: SERVICE })).toBe(0)
        } finally {
          for (const { connection } of producers) await connection[Symbol.asyncDispose]()
        }
      }),
      { numRuns: 60 },
    )
  })

  test('finds what a transaction wrote that was older than all others and drew its number before them', async () => {
    await using follower = await Follower.start()
    await using older = await database.service.connection()
    await using younger = await database.service.connection()
    await older.query('begin')
    await older.query('select pg_current_xact_id()')
    await younger.query('begin')
    // The younger id, and the lower number: no snapshot lists it, since no later transaction has ended.
    const low = await insert(younger, 'a')
    const high = await insert(older, 'b')
    await older.query('commit')
    expect(await follower.look(10)).toBe(true)
    for (let i = 0; i < 5; i++) {
      await insert(database.service, 'c')
      expect(await follower.look(10)).toBe(true)
    }
    await younger.query('commit')
    expect(await follower.look(10)).toBe(true)
    expect(follower.published.map(({ id }) => id)).toContain(high)
    expect(follower.published.at(-1)).toEqual({ id: low, aggregate: 'a' })
  })

  test('finds what is written after the numbers were set back', async () => {
    await using follower = await Follower.start()
    for (let i = 0; i < 6; i++) {
      await insert(database.service, 'a')
      await follower.look(10)
    }
    await database.owner.query('truncate billing.outbox restart identity')
    await insert(database.service, 'b')
    expect(await follower.look(10)).toBe(true)
    await database.owner.query('truncate billing.outbox')
    await database.owner.query(`select setval('billing.outbox_number', 1, false)`)
    await follower.restart()
    expect(await follower.look(10)).toBe(false)
    const id = await insert(database.service, 'c')
    expect(await follower.look(10)).toBe(true)
    expect(follower.published.at(-1)).toEqual({ id, aggregate: 'c' })
  })

  test('passes by little of what is published, though a transaction stays open', async () => {
    await using follower = await Follower.start()
    await using open = await database.service.connection()
    await open.query('begin')
    const late = await insert(open, 'late')
    await database.service.query(
      `insert into billing.outbox (tenant_id, aggregate_type, aggregate_id, type, data)
       select gen_random_uuid(), 'charge', n::text, 'captured', '{}' from generate_series(1, 2000) n`,
    )
    await follower.stream(500)
    while (await follower.look(500));
    const { floor, lows } = await loadPosition({ db: database.db }, SERVICE)
    const [{ low, high } = { low: 0n, high: 0n }] = await database.owner.query<{ low: bigint; high: bigint }>(
      'select min(seq) as low, max(seq) as high from billing.outbox',
    )
    expect(high - low).toBe(1_999n)
    expect(floor).toBe(high)
    expect(lows).toEqual([0n])
    await open.query('commit')
    expect(await follower.look(10)).toBe(true)
    expect(follower.published.at(-1)).toEqual({ id: late, aggregate: 'late' })
    expect(await loadPosition({ db: database.db }, SERVICE)).toMatchObject({ floor: high, lows: [] })
  })
})

test('an outbox without events has nothing done', async () => {
  expect(await loadPosition({ db: database.db }, SERVICE)).toEqual(NOTHING_DONE)
})
