import { openRedis } from './client.ts'

/** One worker's place in the schedule. */
export interface Schedule {
  /** Puts the schedule into Redis unless it is there: a flushed Redis heals. Does nothing while Redis is away. */
  ensure(): Promise<void>
  /** Settles when the job under way has ended. */
  close(): Promise<void>
}

/** The cadence of what runs every so often: BullMQ job schedulers, shared by all hosts. */
export interface Scheduler extends AsyncDisposable {
  /** False while Redis is away: nothing falls due then. */
  readonly connected: boolean
  /**
   * Calls `due` every `everyMs` on one of the hosts that asked for it; not again before it has settled. Jobs carry no
   * data, and what `due` throws is its own affair.
   */
  every(name: string, everyMs: number, due: () => Promise<unknown>): Promise<Schedule>
}

/**
 * Opens the queue role of Redis. Never waits for Redis: while it is away nothing falls due, and it is taken up again
 * by itself. `warn` hears what an operator should mend.
 */
export function openScheduler({ url, warn }: { url: string; warn: (message: string) => void }): Scheduler {
  const redis = openRedis({ url, name: 'tabib scheduler', queue: true })
  redis.on('ready', () => {
    redis
      .info('memory')
      .then((info) => {
        const policy = /maxmemory_policy:(\S+)/.exec(info)?.[1]
        if (policy !== undefined && policy !== 'noeviction') {
          warn(`Redis may evict the schedule: maxmemory-policy is ${policy}; set it to noeviction`)
        }
      })
      .catch(() => {})
  })
  void redis.connect().catch(() => {})

  return {
    get connected() {
      return redis.status === 'ready'
    },
    async every(name, everyMs, due) {
      const { Queue, Worker } = await import('bullmq')
      const options = { connection: redis, prefix: 'tabib', skipVersionCheck: true }
      const queue = new Queue(name, options)
      const worker = new Worker(
        name,
        async () => {
          await due().catch(() => {})
        },
        { ...options, concurrency: 1, removeOnComplete: { count: 1 }, removeOnFail: { count: 1 } },
      )
      // Both tell that Redis is away, as does `connected`; unheard, they would end the process.
      queue.on('error', () => {})
      worker.on('error', () => {})
      return {
        async ensure() {
          if (redis.status !== 'ready') return
          // Put in anew each time, the next job would be put off each time.
          const present = await queue.getJobScheduler(name)
          if (present?.every === everyMs) return
          await queue.upsertJobScheduler(name, { every: everyMs }, { name, data: {} })
        },
        async close() {
          // Without Redis there is nobody to say goodbye to.
          const away = redis.status !== 'ready'
          await worker.close(away)
          await queue.close()
        },
      }
    },
    async [Symbol.asyncDispose]() {
      redis.disconnect()
    },
  }
}
