import type { Redis } from '../../adapters/redis/client.ts'
import type { Service } from '../../service.ts'
import type { Answer, Call } from './key.ts'

/** An answer as it is kept. */
export interface Kept extends Answer {
  fingerprint: Buffer
  /** How long it is still good for, by the database's clock. */
  leftMs: number
}

/** Services whose answers are cached. Virtual care's hold join tokens, and stay in the database. */
export const CACHED: readonly Service[] = ['billing', 'communication']

// The cache forgets before the database does, whatever its clock does in 24 hours.
const MARGIN_MS = 60_000
const REST_MS = 1_000

/** Copies of answers in Redis: a hit saves a transaction, and nothing else hangs on it. */
export interface AnswerCache {
  /** Undefined when Redis does not hold it, or does not answer. */
  find(call: Call): Promise<Omit<Kept, 'leftMs'> | undefined>
  /** Only what is committed. */
  keep(call: Call, kept: Kept): Promise<void>
}

type Place = Pick<Call, 'service' | 'tenantId' | 'route' | 'key'>

/** After a failure Redis is let alone for a second, so that one that hangs holds up few requests. */
export function openAnswerCache(redis: Redis): AnswerCache {
  let restUntil = 0
  const attempt = async <T>(ask: () => Promise<T>): Promise<T | undefined> => {
    if (redis.status === 'wait') redis.connect().catch(() => {})
    if (redis.status !== 'ready' || performance.now() < restUntil) return undefined
    try {
      return await ask()
    } catch {
      restUntil = performance.now() + REST_MS
      return undefined
    }
  }
  return {
    async find(call) {
      if (!CACHED.includes(call.service) || call.secret) return undefined
      return attempt(async () => {
        const text = await redis.get(cacheKey(call))
        if (!text) return undefined
        const { fingerprint, status, body } = JSON.parse(text)
        return { fingerprint: Buffer.from(fingerprint, 'base64'), status, body }
      })
    },
    async keep(call, kept) {
      if (!CACHED.includes(call.service) || call.secret) return
      const entry = cacheEntry(call, kept)
      if (entry) await attempt(() => redis.set(...entry))
    },
  }
}

/** Arguments of the SET that caches an answer; undefined when it soon expires. */
export function cacheEntry(
  place: Place,
  { fingerprint, status, body, leftMs }: Kept,
): [key: string, value: string, px: 'PX', ms: number] | undefined {
  const ms = Math.floor(leftMs - MARGIN_MS)
  if (ms <= 0) return undefined
  return [
    cacheKey(place),
    JSON.stringify({ fingerprint: fingerprint.toString('base64'), status, body }),
    'PX',
    ms,
  ]
}

export const cacheKey = ({ service, tenantId, route, key }: Place): string =>
  `tabib:idempotency:${service}:${tenantId}:${route}:${key}`
