import { createConnection } from 'node:net'
import { jetstream } from '@nats-io/jetstream'
import { connect } from '@nats-io/transport-node'
import { Redis } from 'ioredis'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openNats } from '../../src/adapters/nats/client.ts'
import { openDatabase } from '../../src/adapters/postgres/client.ts'
import { openRedis } from '../../src/adapters/redis/client.ts'
import { type NatsServer, startNats } from '../../src/sandbox/servers/nats.ts'
import { type PostgresServer, startPostgres } from '../../src/sandbox/servers/postgres.ts'
import type { Server, ServerOptions } from '../../src/sandbox/servers/process.ts'
import { type RedisServer, startRedis } from '../../src/sandbox/servers/redis.ts'

type AnyServer = Pick<
  Server,
  'port' | 'pid' | 'kill' | 'pause' | 'resume' | 'stop' | 'restart' | 'link' | 'fillDisk'
> &
  AsyncDisposable

interface System<S extends AnyServer> {
  name: string
  start(options: ServerOptions): Promise<S>
  /** Stores `bytes` under a number with a new connection through the link; rejects when that isn't acknowledged. */
  store(server: S, number: number, bytes?: number): Promise<void>
  /** The numbers stored. */
  stored(server: S): Promise<number[]>
  /** What a client sends first and gets an answer to. */
  hello: string
  diskMb: number
}

const adminUrlThroughLink = (server: PostgresServer) => {
  const url = new URL(server.adminUrl)
  url.port = String(server.clientPort)
  return url.href
}

const postgres: System<PostgresServer> = {
  name: 'Postgres',
  async start(options) {
    const server = await startPostgres(options)
    await using db = openDatabase({ url: server.adminUrl })
    await db.query('create table stored (number int primary key, data text)')
    await db.query('alter table stored alter data set storage external')
    return server
  },
  async store(server, number, bytes = 10) {
    await using db = openDatabase({ url: adminUrlThroughLink(server) })
    await db.query('insert into stored values ($1, $2)', [number, 'x'.repeat(bytes)])
  },
  async stored(server) {
    await using db = openDatabase({ url: adminUrlThroughLink(server) })
    return (await db.query<{ number: number }>('select number from stored order by 1')).map(
      ({ number }) => number,
    )
  },
  // SSLRequest: length 8, code 80877103.
  hello: '\x00\x00\x00\x08\x04\xd2\x16\x2f',
  diskMb: 160,
}

const nats: System<NatsServer> = {
  name: 'NATS',
  async start(options) {
    const server = await startNats({ ...options, maxPayload: 8_000_000 })
    await using client = openNats({ url: server.url })
    await client.ensureStream({ name: 'stored', subjects: ['stored.>'] })
    return server
  },
  async store(server, number, bytes = 10) {
    const { username: user, password: pass, host } = new URL(server.url)
    const client = await connect({ servers: host, user, pass, reconnect: false })
    try {
      await jetstream(client).publish(`stored.${number}`, new Uint8Array(bytes), {
        retries: 0,
        timeout: 5_000,
      })
    } finally {
      await client.close()
    }
  },
  async stored(server) {
    await using client = openNats({ url: server.url })
    const numbers: number[] = []
    for await (const { subject } of client.messages('stored', 1)) numbers.push(Number(subject.split('.')[1]))
    return numbers
  },
  hello: '',
  diskMb: 32,
}

const redis: System<RedisServer> = {
  name: 'Redis',
  start: startRedis,
  async store(server, number, bytes = 10) {
    // Without the production client's second try, which would make good what the fault broke.
    const client = new Redis(server.url, { lazyConnect: true, retryStrategy: () => null })
    client.on('error', () => {})
    try {
      await client.connect()
      await client.rpush('stored', `${number}:${'x'.repeat(bytes)}`)
      await client.save()
    } finally {
      client.disconnect()
    }
  },
  async stored(server) {
    const client = openRedis({ url: server.url })
    try {
      await client.connect()
      return (await client.lrange('stored', 0, -1)).map((value) => Number.parseInt(value, 10))
    } finally {
      client.disconnect()
    }
  },
  hello: 'PING\r\n',
  diskMb: 16,
}

/** Dials a port and says hello: what a client would see of the server within `limitMs`. */
function dial(
  port: number,
  hello: string,
  limitMs = 300,
): Promise<'answers' | 'silent' | 'refused' | 'reset'> {
  return new Promise((resolve) => {
    const socket = createConnection({ host: '127.0.0.1', port })
    socket.setTimeout(limitMs)
    socket.once('connect', () => socket.write(hello, 'latin1'))
    const settle = (seen: 'answers' | 'silent' | 'refused' | 'reset') => {
      resolve(seen)
      socket.destroy()
    }
    socket.once('data', () => settle('answers'))
    socket.once('timeout', () => settle('silent'))
    socket.once('close', () => settle('reset'))
    socket.once('error', (error: NodeJS.ErrnoException) =>
      settle(error.code === 'ECONNREFUSED' ? 'refused' : 'reset'),
    )
  })
}

function suffers<S extends AnyServer>(system: System<S>): void {
  let server: S
  beforeAll(async () => {
    server = await system.start({ proxied: true })
    await system.store(server, 1)
  })
  afterAll(() => server[Symbol.asyncDispose]())

  test('kill -9: gone at once; restarted, it has its port and what it had kept', async () => {
    const { port, pid } = server
    await server.kill()
    expect(await dial(port, system.hello)).toBe('refused')
    expect(() => server.pid).toThrow('is not running')
    await server.restart()
    expect(server.port).toBe(port)
    expect(server.pid).not.toBe(pid)
    expect(await system.stored(server)).toEqual([1])
  })

  test('pause: silent to old and new connections until it is resumed', async () => {
    await server.pause()
    expect(await dial(server.port, system.hello)).toBe('silent')
    const waiting = system.store(server, 2)
    await server.resume()
    await waiting
    expect(await system.stored(server)).toEqual([1, 2])
  })

  test('restart: an orderly one keeps everything', async () => {
    await server.restart()
    expect(await system.stored(server)).toEqual([1, 2])
  })

  test('a link that refuses, and passes again', async () => {
    await server.link.refuse()
    expect(await dial(server.link.port, system.hello)).toBe('refused')
    await expect(system.store(server, 3)).rejects.toThrow()
    await server.link.pass()
    await system.store(server, 3)
  })

  test('a partitioned link holds back what is under way and delivers it when it heals', async () => {
    server.link.partition()
    let answered = false
    const waiting = system.store(server, 4).then(() => {
      answered = true
    })
    expect(await dial(server.link.port, system.hello)).toBe('silent')
    expect(answered).toBe(false)
    await server.link.pass()
    await waiting
    expect(await system.stored(server)).toEqual([1, 2, 3, 4])
  })

  test('a slow link takes its time and loses nothing', async () => {
    server.link.slow({ delayMs: 50, bytesPerS: 200_000 })
    const startedAt = performance.now()
    await system.store(server, 5, 40_000)
    expect(performance.now() - startedAt).toBeGreaterThan(200)
    await server.link.pass()
    expect(await system.stored(server)).toEqual([1, 2, 3, 4, 5])
  })

  test('a connection dropped in the middle of a message stores nothing of it', async () => {
    const cut = server.link.dropAfter(500_000, 'to-server')
    await expect(system.store(server, 6, 1_000_000)).rejects.toThrow()
    await cut
    await system.store(server, 7)
    expect(await system.stored(server)).toEqual([1, 2, 3, 4, 5, 7])
  })

  test('connections dropped now are counted and can be made anew', async () => {
    // Those of the tests before may still be closing.
    server.link.drop()
    const socket = createConnection({ host: '127.0.0.1', port: server.link.port })
    const reset = new Promise((resolve) => socket.once('error', resolve))
    await new Promise((resolve) => socket.once('connect', resolve))
    // The link takes the connection a moment after the kernel did; an answer through it says that it has.
    socket.write(system.hello, 'latin1')
    await new Promise((resolve) => socket.once('data', resolve))
    expect(server.link.drop()).toBe(1)
    expect(await reset).toMatchObject({ code: 'ECONNRESET' })
    expect(await dial(server.link.port, system.hello)).toBe('answers')
  })

  test('a full disk: writes fail, and nothing acknowledged before is lost once there is room', async () => {
    const started = await system.start({ diskMb: system.diskMb }).catch((error: Error) => error)
    if (started instanceof Error) {
      // Not root: the fault is not possible here, and says so.
      expect(started).toMatchObject({
        code: 'SERVER_FAILED',
        message: expect.stringContaining('could not be mounted'),
      })
      return
    }
    await using full = started
    await system.store(full, 1)
    const acknowledged = [1]
    const filled = await full.fillDisk()
    await expect(
      (async () => {
        for (let number = 2; number < 100; number += 1) {
          await system.store(full, number, 1_000_000)
          acknowledged.push(number)
        }
      })(),
    ).rejects.toThrow()
    await filled[Symbol.asyncDispose]()
    // Servers differ in whether they survive it: Postgres may have ended itself, NATS answers nothing any more.
    await full.kill()
    await full.restart()
    expect(await system.stored(full)).toEqual(expect.arrayContaining(acknowledged))
    await system.store(full, 1_000)
  })
}

describe('Postgres suffers', () => suffers(postgres))
describe('NATS suffers', () => suffers(nats))
describe('Redis suffers', () => suffers(redis))

test('a fault that was not provided for is refused with the option that provides it', async () => {
  await using server = await startRedis()
  expect(() => server.link).toThrow('start it with { proxied: true }')
  await expect(server.fillDisk()).rejects.toMatchObject({ code: 'SERVER_FAILED' })
})

test('JetStream within a small file store refuses what does not fit', async () => {
  await using server = await startNats({ maxFileStore: 1_000_000 })
  await using client = openNats({ url: server.url })
  await client.ensureStream({ name: 'stored', subjects: ['stored.>'] })
  const acknowledged: number[] = []
  const storeUntilRefused = async () => {
    for (let number = 1; number < 10; number += 1) {
      await nats.store(server, number, 400_000)
      acknowledged.push(number)
    }
  }
  await expect(storeUntilRefused()).rejects.toThrow('insufficient resources')
  expect(await nats.stored(server)).toEqual(acknowledged)
})
