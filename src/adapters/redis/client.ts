import { Redis } from 'ioredis'
import { TabibError } from '../../errors.ts'

export type { Redis }

/**
 * Opens one Redis connection lazily. Commands fail at once while Redis is away instead of queueing without bound.
 * BullMQ takes the URL and opens connections of its own (it needs `maxRetriesPerRequest: null`).
 */
export function openRedis({ url, name = 'tabib' }: { url: string; name?: string }): Redis {
  const redis = new Redis(url, {
    connectionName: name,
    lazyConnect: true,
    connectTimeout: 5_000,
    maxRetriesPerRequest: 1,
    enableOfflineQueue: false,
    retryStrategy: (attempt) => Math.min(250 * attempt, 5_000) * (0.5 + Math.random() / 2),
  })
  // Unreachable is told by the failing command; without a listener ioredis writes to the console.
  redis.on('error', () => {})
  return redis
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
