import type { Database } from '../../adapters/postgres/client.ts'
import { pingRedis, type Redis } from '../../adapters/redis/client.ts'
import { TabibError } from '../../errors.ts'
import { type Service, schemaOf } from '../../service.ts'
import { CACHED, cacheEntry, cacheKey, type Kept } from './cache.ts'

/** Few enough to be through within the time that one command is given. */
const BATCH = 250
/** As many answers as are looked for: enough to tell 90 % from 89 %. */
const SAMPLE = 500
const FEWEST = 20

type Row = Kept & { tenantId: string; route: string; key: string; at: string }

/**
 * Of the newest answers that may be asked for again, the share that the cache lacks: what retries meet. 1 while Redis is
 * away, undefined while there are hardly any.
 */
export async function cacheMissRatio({ db, redis }: { db: Database; redis: Redis }): Promise<{
  ratio: number | undefined
  answers: number
  redis: 'ready' | 'away'
}> {
  const keys: string[] = []
  for (const service of CACHED) {
    const rows = await db.query<Pick<Row, 'tenantId' | 'route' | 'key'>>(
      `select tenant_id as "tenantId", route, key from ${schemaOf(service)}.idempotency_key
       where created_at > now() - interval '23 hours' order by created_at desc limit $1`,
      [SAMPLE],
    )
    keys.push(...rows.map((row) => cacheKey({ service, ...row })))
  }
  const answers = keys.length
  if (answers < FEWEST) return { ratio: undefined, answers, redis: 'ready' }
  try {
    await pingRedis(redis)
    const held = await redis.exists(...keys)
    return { ratio: 1 - held / answers, answers, redis: 'ready' }
  } catch {
    return { ratio: 1, answers, redis: 'away' }
  }
}

/**
 * Puts the answers of the last 24 hours back into the cache, the newest first, up to `limit`. Twice is once.
 * @throws TabibError REDIS_UNREACHABLE
 */
export async function warmCache(
  { db, redis }: { db: Database; redis: Redis },
  { limit, signal }: { limit: number; signal: AbortSignal },
): Promise<{ warmed: number }> {
  await pingRedis(redis)
  let warmed = 0
  for (const service of CACHED) {
    let last: Row | undefined
    do {
      const rows = await newestAnswers(db, service, last, Math.min(BATCH, limit - warmed))
      const pipeline = redis.pipeline()
      for (const row of rows) {
        const entry = cacheEntry({ service, ...row }, row)
        if (entry) pipeline.set(...entry)
      }
      for (const [cause] of (await pipeline.exec()) ?? []) {
        if (cause)
          throw new TabibError('REDIS_UNREACHABLE', `Redis took no more: ${cause.message}`, { cause })
      }
      warmed += rows.length
      last = rows.at(-1)
    } while (last && warmed < limit && !signal.aborted)
  }
  return { warmed }
}

function newestAnswers(
  db: Database,
  service: Service,
  before: Row | undefined,
  limit: number,
): Promise<Row[]> {
  return db.query<Row>(
    `select tenant_id as "tenantId", route, key, fingerprint, status, body, created_at::text as at,
       extract(epoch from created_at + interval '24 hours' - now())::float8 * 1000 as "leftMs"
     from ${schemaOf(service)}.idempotency_key
     where created_at > now() - interval '24 hours'
       and ($1::timestamptz is null or (created_at, tenant_id, route, key) < ($1, $2, $3, $4))
     order by created_at desc, tenant_id desc, route desc, key desc limit $5`,
    [before?.at, before?.tenantId, before?.route, before?.key, limit],
  )
}
