import { randomBytes } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { openRedis, type Redis } from '../../adapters/redis/client.ts'
import { mountSmallDisk } from '../faults/disk.ts'
import { inFolder, type SandboxFolder } from '../folder.ts'
import { requirePrograms } from './find.ts'
import { freePort, type Server, type ServerOptions, startServerProcess } from './process.ts'

/** Keeps its data over `stop` and `restart`; a kill loses what came after the last snapshot, as a real queue's Redis may. */
export interface RedisServer extends Server {
  /** `redis://:password@127.0.0.1:port/0`, through the link when the server is `proxied`. */
  readonly url: string
  /** Loses everything that it holds, and goes on. */
  flush(): Promise<void>
}

export type RedisOptions = ServerOptions

/**
 * Starts a private Redis on a free loopback port, set up as BullMQ wants it (nothing is evicted).
 *
 * @throws TabibError SERVER_MISSING, SERVER_FAILED.
 */
export async function startRedis(options: RedisOptions = {}): Promise<RedisServer> {
  const programs = await requirePrograms(['redis-server'])
  return inFolder(options.folder, (folder) => start(folder, programs['redis-server'], options))
}

async function start(
  folder: SandboxFolder,
  command: string,
  { proxied = false, diskMb }: RedisOptions,
): Promise<RedisServer> {
  const dir = await folder.make('redis')
  const data = join(dir, 'data')
  await mkdir(data)
  const disk = diskMb === undefined ? undefined : await mountSmallDisk(data, diskMb)
  const port = await freePort()
  const password = randomBytes(16).toString('hex')
  const config = join(dir, 'redis.conf')
  const settings = {
    bind: '127.0.0.1',
    port,
    requirepass: password,
    dir: data,
    'maxmemory-policy': 'noeviction',
    appendonly: 'no',
    // With a save point set, a snapshot that fails stops writes: that is how Redis feels a full disk.
    save: '3600 1',
    daemonize: 'no',
  }
  const lines = Object.entries(settings).map(([name, value]) => `${name} ${value}\n`)
  await writeFile(config, lines.join(''), { mode: 0o600 })
  const server = await startServerProcess({
    name: 'Redis',
    folder,
    port,
    proxied,
    disk,
    command,
    args: [config],
    dir,
    ready: /Ready to accept connections/,
    stopSignal: 'SIGTERM',
  })
  const asClient = async (work: (redis: Redis) => Promise<unknown>) => {
    const redis = openRedis({ url: `redis://:${password}@127.0.0.1:${port}/0`, name: 'tabib sandbox' })
    try {
      await redis.connect()
      await work(redis)
    } finally {
      redis.disconnect()
    }
  }
  const snapshot = () =>
    asClient(async (redis) => {
      await redis.bgsave('SCHEDULE')
      while (/bgsave_in_progress:1/.test(await redis.info('persistence'))) await delay(5)
    })
  return Object.assign(server, {
    url: `redis://:${password}@127.0.0.1:${server.clientPort}/0`,
    flush: () => asClient((redis) => redis.flushall()),
    fillDisk: withSnapshots(server.fillDisk, snapshot),
  })
}

// Redis meets its disk only when it saves, so it is made to when the disk fills and when it is freed again.
function withSnapshots(fill: Server['fillDisk'], snapshot: () => Promise<void>): Server['fillDisk'] {
  return async () => {
    const full = await fill()
    await snapshot()
    return {
      async [Symbol.asyncDispose]() {
        await full[Symbol.asyncDispose]()
        await snapshot()
      },
    }
  }
}
