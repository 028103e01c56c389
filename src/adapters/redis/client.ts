import { createRequire } from 'node:module'
import type { Redis } from 'ioredis'
import { TabibError } from '../../errors.ts'

export type { Redis }

/**
 * Opens one Redis connection lazily. Commands fail at once while Redis is away instead of queueing without bound, and
 * within 250 ms while it hangs; with `queue`, as BullMQ needs it, they wait until it is back.
 */
export function openRedis({
  url,
  name = 'tabib',
  queue = false,
}: {
  url: string
  name?: string
  queue?: boolean
}): Redis {
  // Loaded by whoever uses it: most commands ask Postgres alone.
  const ioredis = createRequire(import.meta.url)('ioredis') as typeof import('ioredis')
  const redis = new ioredis.Redis(url, {
    connectionName: name,
    lazyConnect: true,
    connectTimeout: 5_000,
    // BullMQ blocks on purpose; of everybody else, nobody waits for a Redis that hangs.
    ...(queue ? {} : { commandTimeout: 250 }),
    maxRetriesPerRequest: queue ? null : 1,
    enableOfflineQueue: queue,
    retryStrategy: (attempt) => Math.min(250 * attempt, 5_000) * (0.5 + Math.random() / 2),
  })
  // Unreachable is told by the failing command; without a listener ioredis writes to the console.
  redis.on('error', () => {})
  return redis
}

/** Redis's own clock, in milliseconds since 1970. */
export async function redisTime(redis: Redis): Promise<number> {
  if (redis.status === 'wait') await redis.connect()
  const [seconds, micros] = await redis.time()
  return Number(seconds) * 1_000 + Number(micros) / 1_000
}

/** @throws TabibError REDIS_UNREACHABLE (safe to retry) when Redis does not answer. */
export async function pingRedis(redis: Redis): Promise<void> {
  try {
    if (redis.status === 'wait') await redis.connect()
    await redis.ping()
  } catch (cause) {
    throw new TabibError(
      'REDIS_UNREACHABLE',
      `Redis at ${redis.options.host}:${redis.options.port} is unreachable: ${cause instanceof Error ? cause.message : String(cause)}`,
      { cause, suggestions: ['tabib worker list'] },
    )
  }
}
