import { randomUUID } from 'node:crypto'
import fc from 'fast-check'
import { afterEach, beforeAll, describe, expect, test } from 'vitest'
import type { Connection } from '../../src/adapters/postgres/client.ts'
import { loadConfig, type OutboxMapping } from '../../src/config.ts'
import { outboxLag, outboxPending } from '../../src/domain/outbox/backlog.ts'
import { openGapReader } from '../../src/domain/outbox/gap-window.ts'
import { acquireLease, type Lease, releaseLease } from '../../src/domain/outbox/lease.ts'
import { loadPosition, NOTHING_DONE, type Position, savePosition } from '../../src/domain/outbox/position.ts'
import { outboxSource } from '../../src/domain/outbox/source.ts'
import { openWindowReader, type Page, type WindowReader } from '../../src/domain/outbox/window.ts'
import type { Service } from '../../src/service.ts'
import { useDatabase } from '../support/database.ts'

const database = useDatabase()

interface Outbox {
  service: Service
  table: string
  mapping?: OutboxMapping
  /** Whether a row may carry a number that was drawn before its transaction began. */
  drawnAhead: boolean
}
const MAPPED = { subject: null, headers: null, created_at: 'occurred_at' }
const OURS: Outbox = { service: 'billing', table: 'billing.outbox', drawnAhead: false }
const BY_XID: Outbox = {
  service: 'virtual-care',
  table: 'legacy.by_xid',
  mapping: { table: 'legacy.by_xid', columns: MAPPED },
  drawnAhead: true,
}
const BY_NUMBER: Outbox = {
  service: 'communication',
  table: 'legacy.by_number',
  mapping: { table: 'legacy.by_number', columns: { ...MAPPED, xid: null } },
  drawnAhead: false,
}

beforeAll(async () => {
  const columns = `id text, tenant_id uuid, aggregate_type text, aggregate_id text, type text, data text,
    occurred_at timestamptz default clock_timestamp()`
  await database.owner.query(
    `create schema legacy; grant usage on schema legacy to tabib_relay, tabib_app;
     create table legacy.by_xid (seq bigserial primary key, xid xid8 not null default pg_current_xact_id(), ${columns});
     create index on legacy.by_xid (xid);
     create table legacy.by_number (seq bigserial primary key, ${columns});
     grant select (seq, xid, id, tenant_id, aggregate_type, aggregate_id, type, data, occurred_at) on legacy.by_xid to tabib_relay;
     grant select (seq, id, tenant_id, aggregate_type, aggregate_id, type, data, occurred_at) on legacy.by_number to tabib_relay;
     grant insert on all tables in schema legacy to tabib_app;
     grant usage on all sequences in schema legacy to tabib_app`,
  )
})
afterEach(async () => {
  await database.owner.query(
    'truncate billing.outbox; truncate legacy.by_xid, legacy.by_number; truncate tabib.outbox_progress',
  )
})

interface Event {
  id: string
  aggregate: string
}

async function insert(
  connection: Pick<Connection, 'query'>,
  aggregate: string,
  { table }: Outbox = OURS,
  number?: bigint,
): Promise<Event> {
  const id = randomUUID()
  const [column, value] = number === undefined ? ['', ''] : [', seq', `, ${number}`]
  await connection.query(
    `insert into ${table} (id, tenant_id, aggregate_type, aggregate_id, type, data${column})
     values ($1, gen_random_uuid(), 'charge', $2, 'captured', '{}'${value})`,
    [id, aggregate],
  )
  return { id, aggregate }
}

/** Reads as the relay does, from what it saved last, and takes a page for published once its position is saved. */
class Follower {
  readonly published: Event[] = []
  readonly #outbox: Outbox
  readonly #lease: Lease
  #connection: Connection
  #reader: WindowReader
  #position: Position

  private constructor(outbox: Outbox, lease: Lease, opened: [Connection, WindowReader, Position]) {
    this.#outbox = outbox
    this.#lease = lease
    ;[this.#connection, this.#reader, this.#position] = opened
  }

  static async start(outbox = OURS): Promise<Follower> {
    const by = { service: outbox.service, holder: randomUUID(), ttlMs: 60_000 }
    const attempt = await acquireLease({ db: database.db }, by)
    if (attempt.kind === 'standby') throw new Error(`${attempt.holder} holds the lease`)
    return new Follower(outbox, attempt.lease, await Follower.#open(outbox))
  }

  static async #open({ service, mapping }: Outbox): Promise<[Connection, WindowReader, Position]> {
    const connection = await database.db.connection()
    const source = outboxSource(service, mapping)
    // Set anew at almost every look, the mark moves as it does in hours of a real relay.
    const options = { maxDataBytes: 1_048_576, markEvery: 2 }
    const reader = await (source.hasXid ? openWindowReader : openGapReader)(connection, source, options)
    return [connection, reader, await loadPosition({ db: database.db }, service)]
  }

  async #publish({ rows, after }: Page): Promise<void> {
    this.#position = after
    this.published.push(...rows.map(({ id, aggregateId }) => ({ id, aggregate: aggregateId })))
    await savePosition({ db: database.db }, this.#lease, after)
  }

  /** One page; whether there was one. */
  async look(limit: number): Promise<boolean> {
    const page = await this.#reader.read(this.#position, limit)
    if (page) await this.#publish(page)
    return page !== undefined
  }

  /** Some pages as a stream. */
  async stream(pageRows: number): Promise<void> {
    for await (const page of this.#reader.pages(this.#position, { pageRows, rows: 3 * pageRows })) {
      await this.#publish(page)
    }
  }

  async restart(): Promise<void> {
    await this.#connection[Symbol.asyncDispose]()
    ;[this.#connection, this.#reader, this.#position] = await Follower.#open(this.#outbox)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#connection[Symbol.asyncDispose]()
    await releaseLease({ db: database.db }, this.#lease)
  }
}

const AGGREGATES = ['a', 'b', 'c', 'd']
const PRODUCERS = 5
const step = fc.record({
  kind: fc.oneof(
    { weight: 6, arbitrary: fc.constant('insert' as const) },
    // An id without a row: of a transaction that writes elsewhere first, or for good.
    { weight: 2, arbitrary: fc.constant('take an id' as const) },
    { weight: 1, arbitrary: fc.constant('draw a number ahead' as const) },
    { weight: 1, arbitrary: fc.constant('insert and undo' as const) },
    { weight: 3, arbitrary: fc.constant('commit' as const) },
    { weight: 1, arbitrary: fc.constant('roll back' as const) },
    { weight: 4, arbitrary: fc.constant('look' as const) },
    { weight: 1, arbitrary: fc.constant('stream' as const) },
    { weight: 1, arbitrary: fc.constant('restart' as const) },
  ),
  who: fc.nat(PRODUCERS - 1),
  aggregate: fc.constantFrom(...AGGREGATES),
  rows: fc.integer({ min: 1, max: 4 }),
})

class Producer {
  readonly connection: Connection
  readonly #outbox: Outbox
  /** Of the open transaction; undefined when there is none. */
  wrote: Event[] | undefined

  constructor(connection: Connection, outbox: Outbox) {
    this.connection = connection
    this.#outbox = outbox
  }

  async begin(): Promise<Event[]> {
    if (!this.wrote) await this.connection.query('begin')
    this.wrote ??= []
    return this.wrote
  }

  async insert(aggregate: string, number?: bigint): Promise<void> {
    const wrote = await this.begin()
    wrote.push(await insert(this.connection, aggregate, this.#outbox, number))
  }

  /** What is committed by it. */
  async end(how: 'commit' | 'rollback'): Promise<Event[]> {
    const wrote = this.wrote ?? []
    if (this.wrote) await this.connection.query(how)
    this.wrote = undefined
    return how === 'commit' ? wrote : []
  }
}

describe('a reader of windows', () => {
  test.each([
    ['our outbox', OURS],
    ['a mapped one with transaction ids', BY_XID],
    ['a mapped one without', BY_NUMBER],
  ])(
    'finds every committed event of %s once and in order, however transactions overlap',
    async (_, outbox) => {
      const config = loadConfig({ env: {}, cwd: '/' })
      if (outbox.mapping) config.outbox.tables[outbox.service] = outbox.mapping
      const app = { db: database.db, config }

      const run = async (steps: (typeof step extends fc.Arbitrary<infer Step> ? Step : never)[]) => {
        await database.owner.query(`truncate ${outbox.table}; truncate tabib.outbox_progress`)
        await using follower = await Follower.start(outbox)
        const producers: Producer[] = []
        for (let i = 0; i < PRODUCERS; i++) {
          producers.push(new Producer(await database.service.connection(), outbox))
        }
        const committed: Event[] = []
        const ahead: bigint[] = []
        let ordered = true
        const takeStep = async ({ kind, who, aggregate, rows }: (typeof steps)[number]) => {
          const producer = producers[who] as Producer
          // As if by the lock of the aggregate's row.
          const locked = producers.some(
            (other) => other !== producer && other.wrote?.some((event) => event.aggregate === aggregate),
          )
          switch (kind) {
            case 'look':
              return void (await follower.look(rows))
            case 'stream':
              return follower.stream(rows)
            case 'restart':
              return follower.restart()
            case 'commit':
              return void committed.push(...(await producer.end('commit')))
            case 'roll back':
              return void (await producer.end('rollback'))
            case 'take an id':
              await producer.begin()
              return void (await producer.connection.query('select pg_current_xact_id()'))
            case 'draw a number ahead': {
              if (!outbox.drawnAhead) return
              const [drawn] = await database.owner.query<{ n: bigint }>(
                `select nextval(pg_get_serial_sequence('${outbox.table}', 'seq')) as n`,
              )
              return void ahead.push(drawn!.n)
            }
            case 'insert and undo':
              if (locked) return
              await producer.begin()
              await producer.connection.query('savepoint s')
              await insert(producer.connection, aggregate, outbox)
              return void (await producer.connection.query('rollback to s'))
            case 'insert': {
              if (locked) return
              const number = ahead.shift()
              if (number !== undefined) ordered = false
              return producer.insert(aggregate, number)
            }
          }
        }
        try {
          for (const one of steps) await takeStep(one)
        } finally {
          for (const producer of producers) {
            committed.push(...(await producer.end('commit')))
            await producer.connection[Symbol.asyncDispose]()
          }
        }
        const pending = committed.length - follower.published.length
        expect(await outboxPending(app, outbox)).toBe(pending)
        expect((await outboxLag(app, outbox)) > 0).toBe(pending > 0)
        while (await follower.look(3));
        expect(await outboxPending(app, outbox)).toBe(0)
        for (const aggregate of AGGREGATES) {
          const idsOf = (events: Event[]) => {
            const ids = events.filter((event) => event.aggregate === aggregate).map(({ id }) => id)
            return ordered ? ids : ids.sort()
          }
          expect(idsOf(follower.published)).toEqual(idsOf(committed))
        }
      }
      await fc.assert(fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 60 }), run), {
        numRuns: 40,
      })
    },
  )

  test('finds what a transaction wrote that was older than all others and drew its number before them', async () => {
    await using follower = await Follower.start()
    await using older = await database.service.connection()
    await using younger = await database.service.connection()
    await older.query('begin')
    await older.query('select pg_current_xact_id()')
    await younger.query('begin')
    // The younger id and the lower number; no snapshot lists it as open, since no later transaction has ended.
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
    expect(follower.published[0]).toEqual(high)
    expect(follower.published.at(-1)).toEqual(low)
  })

  test('finds what is written after the numbers were set back', async () => {
    await using follower = await Follower.start()
    for (let i = 0; i < 6; i++) {
      await insert(database.service, 'a')
      await follower.look(10)
    }
    // This sets nothing back.
    await database.owner.query('truncate billing.outbox restart identity')
    const next = await insert(database.service, 'b')
    expect(await follower.look(10)).toBe(true)
    expect(follower.published.at(-1)).toEqual(next)
    await database.owner.query(`truncate billing.outbox; select setval('billing.outbox_number', 1, false)`)
    expect(await follower.look(10)).toBe(false)
    for (const restarted of [false, true, false]) {
      if (restarted) await follower.restart()
      const following = await insert(database.service, 'c')
      expect(await follower.look(10)).toBe(true)
      expect(follower.published.at(-1)).toEqual(following)
    }
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
    const { floor, lows } = await loadPosition({ db: database.db }, OURS.service)
    const [{ high } = { high: 0n }] = await database.owner.query<{ high: bigint }>(
      'select max(seq) as high from billing.outbox',
    )
    expect(floor).toBe(high)
    expect(lows).toEqual([0n])
    await open.query('commit')
    expect(await follower.look(10)).toBe(true)
    expect(follower.published.at(-1)).toEqual(late)
    expect(await loadPosition({ db: database.db }, OURS.service)).toMatchObject({ floor: high, lows: [] })
  })

  test('has nothing done where nothing was relayed', async () => {
    expect(await loadPosition({ db: database.db }, OURS.service)).toEqual(NOTHING_DONE)
  })
})
