import { setTimeout as delay } from 'node:timers/promises'
import type { Fetch } from '../../adapters/http/client.ts'
import type { Nats } from '../../adapters/nats/client.ts'
import { openPatroni } from '../../adapters/patroni/client.ts'
import { type Database, describeUrl, type Queryable } from '../../adapters/postgres/client.ts'
import { openRedis, redisTime } from '../../adapters/redis/client.ts'
import type { Config, TlsFiles } from '../../config.ts'
import { TabibError } from '../../errors.ts'
import { eventStreamOf } from '../../service.ts'
import { type ClockOffset, clockOffset, sampleClock } from './clock-offset.ts'
import { openMember } from './observe.ts'

export { readNtp } from '../../adapters/ntp/client.ts'

/** One clock beside this host's. */
export interface Clock {
  /** `Postgres 10.20.0.11:5432`, `host clinic-7`: the system and where it is. */
  name: string
  host: string
  /** How far it is ahead of this host's; undefined when it could not be asked. */
  offset: ClockOffset | undefined
  /** Why it could not. */
  error: string | undefined
  /** Of a host: whether it follows NTP, as a process there last told. */
  ntp: string | undefined
}

/** What clocks are read from; an App is one. */
export interface ClockReader {
  config: Pick<
    Config,
    'databaseUrl' | 'natsUrl' | 'natsMonitorUrls' | 'redisUrl' | 'redisCacheUrl' | 'cluster'
  >
  db: Database
  nats: Nats
  fetch(tenantId?: undefined, certificate?: TlsFiles): Fetch
}

const SAMPLES = 4
const LIMIT_MS = 1_500
/** A process that was heard of within this time is there. */
const FRESH_S = 10

/** The clocks of Postgres (each member of a cluster) and of every host on which a process of tabib runs. */
export async function podClocks(app: ClockReader): Promise<Clock[]> {
  const [primary, members, rows] = await Promise.all([
    asked(`Postgres ${describeUrl(app.config.databaseUrl!)}`, hostOf(app.config.databaseUrl!), () =>
      postgresTime(app.db),
    ),
    memberClocks(app),
    reports(app.db),
  ])
  const told = members.some(({ offset }) => offset !== undefined)
  return [...(told ? members : [primary, ...members]), ...hostClocks(rows, primary.offset)]
}

/** Those, and the clocks of Redis and NATS. */
export async function allClocks(app: ClockReader): Promise<Clock[]> {
  const { natsUrl, natsMonitorUrls, redisUrl, redisCacheUrl } = app.config
  const redisUrls = [
    ...new Map([redisUrl, redisCacheUrl].flatMap((url) => (url ? [[placeOf(url), url]] : []))).values(),
  ]
  const [pods, ...others] = await Promise.all([
    podClocks(app),
    ...redisUrls.map(redisClock),
    ...(natsMonitorUrls.length > 0
      ? natsMonitorUrls.map((url) =>
          asked(`NATS ${new URL(url).host}`, hostOf(url), () => monitorTime(app.fetch(), url)),
        )
      : natsUrl === undefined
        ? []
        : [
            asked(`NATS ${placeOf(natsUrl)}`, hostOf(natsUrl), () =>
              app.nats.serverTime(eventStreamOf('billing')),
            ),
          ]),
  ])
  return [...pods, ...others]
}

/** How far apart the clocks are. */
export interface Skew {
  /** The largest distance of two clocks that is certain: what the round trips leave open is taken off. */
  seconds: number | undefined
  /** Whose clock is away from most others', with how far in seconds. */
  off: { name: string; host: string; bySeconds: number }[]
  /** Clocks that could not be asked, or so slowly that 500 ms cannot be told. */
  unmeasured: { name: string; why: string }[]
}

/** The specification's limit. */
export const SKEW_LIMIT_S = 0.5

/** @param clocks beside this host's own, which is one more */
export function skewOf(clocks: readonly Clock[]): Skew {
  const known = clocks.flatMap(({ offset, ...one }) => (offset ? [{ ...one, ...offset }] : []))
  const own = { name: 'this host', host: 'localhost', offsetMs: 0, errorMs: 0 }
  const all = [own, ...known]
  const apart = all.flatMap((one) =>
    all.map((other) => one.offsetMs - one.errorMs - (other.offsetMs + other.errorMs)),
  )
  // Who is right nobody can tell; who is alone, one can.
  const sorted = all.map(({ offsetMs }) => offsetMs).sort((a, b) => a - b)
  const median =
    (sorted[Math.floor((sorted.length - 1) / 2)]! + sorted[Math.ceil((sorted.length - 1) / 2)]!) / 2
  const limitMs = SKEW_LIMIT_S * 1_000
  return {
    seconds: known.length === 0 ? undefined : Math.max(0, ...apart) / 1_000,
    off:
      Math.max(...apart) <= limitMs
        ? []
        : all
            // Of two that differ each is half the distance from the middle, and either may be wrong.
            .filter(({ offsetMs, errorMs }) => Math.abs(offsetMs - median) - errorMs > limitMs / 2)
            .map(({ name, host, offsetMs }) => ({ name, host, bySeconds: (offsetMs - median) / 1_000 })),
    unmeasured: clocks.flatMap(({ name, offset, error }) =>
      offset === undefined
        ? [{ name, why: error ?? 'no answer' }]
        : offset.errorMs > limitMs / 2
          ? [{ name, why: `its answer takes ${Math.round(offset.errorMs * 2)} ms` }]
          : [],
    ),
  }
}

/** Postgres's own clock, in milliseconds since 1970. */
export async function postgresTime(db: Queryable): Promise<number> {
  const [row] = await db.query<{ ms: number }>(
    'select extract(epoch from clock_timestamp())::float8 * 1000 as ms',
  )
  return row!.ms
}

async function memberClocks({ config, fetch }: ClockReader): Promise<Clock[]> {
  const { cluster } = config
  if (!cluster) return []
  const patroni = openPatroni({
    urls: cluster.patroni,
    fetch: fetch(undefined, cluster.tls),
    timeoutMs: LIMIT_MS,
  })
  // Where Patroni is silent the database itself is asked all the same.
  const members = await patroni.cluster().then(
    (found) => found.members,
    () => [],
  )
  return Promise.all(
    members.map(async (member) => {
      await using db = openMember(config, member)
      return await asked(`Postgres ${member.name}`, member.host, async () => {
        if (!db) throw new TabibError('CONFIG_INVALID', 'its address is none that the configuration names')
        return postgresTime(db)
      })
    }),
  )
}

async function redisClock(url: string): Promise<Clock> {
  const redis = openRedis({ url, name: 'tabib clocks' })
  try {
    return await asked(`Redis ${placeOf(url)}`, hostOf(url), () => redisTime(redis))
  } finally {
    redis.disconnect()
  }
}

/** What a NATS server says of itself at its monitoring port (`/varz`). */
async function monitorTime(fetch: Fetch, url: string): Promise<number> {
  const response = await fetch(`${url.replace(/\/+$/, '')}/varz`, { signal: AbortSignal.timeout(LIMIT_MS) })
  const { now } = (await response.json()) as { now?: string }
  const ms = Date.parse(now ?? '')
  if (Number.isNaN(ms)) throw new Error('what answers is no NATS monitoring port')
  return ms
}

interface Report {
  host: string
  offsetS: number
  errorS: number
  ntp: string | null
}

const reports = (db: Queryable): Promise<Report[]> =>
  db.query<Report>(
    `select distinct on (host) host, clock_offset_s as "offsetS", clock_error_s as "errorS", ntp
     from tabib.process
     where at > clock_timestamp() - make_interval(secs => $1) and clock_offset_s is not null
     order by host, clock_error_s`,
    [FRESH_S],
  )

/** Each host told how far Postgres is ahead of it, and this one knows how far Postgres is ahead of itself. */
function hostClocks(rows: readonly Report[], postgres: ClockOffset | undefined): Clock[] {
  return rows.map(({ host, offsetS, errorS, ntp }) => ({
    name: `host ${host}`,
    host,
    offset: postgres && {
      offsetMs: postgres.offsetMs - offsetS * 1_000,
      errorMs: postgres.errorMs + errorS * 1_000,
    },
    error: postgres ? undefined : 'Postgres, by which it is compared, gave no answer',
    ntp: ntp ?? undefined,
  }))
}

/** Several questions, one after the other, within the limit. */
async function asked(name: string, host: string, ask: () => Promise<number>): Promise<Clock> {
  const samples: Awaited<ReturnType<typeof sampleClock>>[] = []
  const late = new AbortController()
  const asking = (async () => {
    for (let n = 0; n < SAMPLES && !late.signal.aborted; n += 1) samples.push(await sampleClock(ask))
    return undefined
  })().catch((error: Error) => error.message)
  const error = await Promise.race([
    asking,
    delay(LIMIT_MS, `no answer within ${LIMIT_MS} ms`, { signal: late.signal, ref: false }),
  ])
  late.abort()
  return { name, host, offset: clockOffset(samples), error: error ?? undefined, ntp: undefined }
}

const placeOf = (url: string): string =>
  url
    .split(',')
    .map((one) => (URL.canParse(one) ? new URL(one).host : '?'))
    .join()

const hostOf = (url: string): string => {
  const one = url.replace(/^(\w+:\/\/(?:[^@/]*@)?[^/,?]*),[^/?]*/, '$1').split(',')[0]!
  return URL.canParse(one) ? new URL(one).hostname.replace(/^\[|\]$/g, '') : '?'
}
