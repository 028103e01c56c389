import { once } from 'node:events'
import type { Redis } from '../../adapters/redis/client.ts'
import { TabibError } from '../../errors.ts'

/** Asks Redis, connected first. @throws TabibError REDIS_UNREACHABLE (safe to retry). */
export async function askRedis<T>(redis: Redis, ask: (ready: Redis) => Promise<T>): Promise<T> {
  try {
    if (redis.status === 'wait') await redis.connect()
    // Another caller may have begun to connect a moment ago.
    if (redis.status === 'connecting' || redis.status === 'connect') await once(redis, 'ready')
    return await ask(redis)
  } catch (cause) {
    throw new TabibError('REDIS_UNREACHABLE', `Redis does not answer: ${(cause as Error).message}`, {
      cause,
      suggestions: ['tabib doctor'],
    })
  }
}
