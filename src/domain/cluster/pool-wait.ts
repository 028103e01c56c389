import { setTimeout as delay } from 'node:timers/promises'
import { openPgBouncer, type PgBouncer, type Pool } from '../../adapters/pgbouncer/client.ts'
import type { Queryable, Wait } from '../../adapters/postgres/client.ts'
import type { Config } from '../../config.ts'
import { TabibError } from '../../errors.ts'

/** What the waits of the last five seconds come to. */
export interface WaitFigures {
  waits: number
  /** 95th percentile, rounded up by at most a fifth; 0 where nobody waited. */
  p95S: number
  /** Who got no connection. */
  refused: number
}

/** How long this process's work waits for connections; constant in size, whatever the load. */
export interface WaitLog {
  record(wait: Wait): void
  figures(): WaitFigures
  /** Also tells `heard` of every wait from now on. */
  listen(heard: (wait: Wait) => void): void
}

const WINDOW_S = 5
// Four to an octave, with the card's threshold of 0.5 s on a bound: beyond it is told as beyond.
const BOUNDS_S = Array.from({ length: 65 }, (_, i) => 0.5 * 2 ** ((i - 40) / 4))

export function openWaitLog(now: () => number = () => performance.now() / 1_000): WaitLog {
  const slots = Array.from({ length: WINDOW_S }, () => ({
    second: -1,
    refused: 0,
    counts: new Uint32Array(BOUNDS_S.length),
  }))
  const listeners: ((wait: Wait) => void)[] = []
  return {
    record(wait) {
      const second = Math.floor(now())
      const slot = slots[second % WINDOW_S]!
      if (slot.second !== second) {
        slot.second = second
        slot.refused = 0
        slot.counts.fill(0)
      }
      const bound = BOUNDS_S.findIndex((limit) => wait.seconds <= limit)
      slot.counts[bound === -1 ? BOUNDS_S.length - 1 : bound]! += 1
      if (wait.refused) slot.refused += 1
      for (const heard of listeners) heard(wait)
    },
    figures() {
      const since = Math.floor(now()) - WINDOW_S
      const recent = slots.filter(({ second }) => second > since)
      const counts = BOUNDS_S.map((_, i) => recent.reduce((sum, { counts }) => sum + counts[i]!, 0))
      const waits = counts.reduce((sum, count) => sum + count, 0)
      let seen = 0
      const p95 = counts.findIndex((count) => {
        seen += count
        return seen >= waits * 0.95
      })
      return {
        waits,
        p95S: waits === 0 ? 0 : BOUNDS_S[p95]!,
        refused: recent.reduce((sum, { refused }) => sum + refused, 0),
      }
    },
    listen(heard) {
      listeners.push(heard)
    },
  }
}

/** A wait that callers feel. */
export const WAIT_LIMIT_S = 0.5

/** A report counts for so long: several beats may be late. */
const FRESH_S = 10
/** What a refused request counts as: nobody is kept waiting for longer. */
const REFUSED_S = 3

/**
 * How long work waits for a connection now, in seconds: the 95th percentile in the process that fares worst, 3 s or more
 * where a request was refused for want of one, and the longest wait that pgbouncer sees. Where this very question gets no
 * connection, that is the answer.
 *
 * @throws TabibError PGBOUNCER_UNREACHABLE, NOT_AUTHORISED when nothing else tells of a wait
 */
export async function poolWait({
  db,
  config: { pgbouncerUrl },
}: {
  db: Queryable
  config: Pick<Config, 'pgbouncerUrl'>
}): Promise<{ waitS: number } & Record<string, unknown>> {
  const [processes, pools] = await Promise.allSettled([
    waitsOfProcesses(db),
    pgbouncerUrl === undefined ? [] : longestQueue(openPgBouncer({ url: pgbouncerUrl })),
  ])
  const own = processes.status === 'fulfilled' ? processes.value : refusedHere(processes.reason)
  const waiting = pools.status === 'fulfilled' ? pools.value.filter(({ maxWaitS }) => maxWaitS > 0) : []
  const waitS = Math.max(own.waitS, ...waiting.map(({ maxWaitS }) => maxWaitS))
  if (pools.status === 'rejected' && own.waitS === 0) throw pools.reason
  return {
    ...own,
    waitS,
    ...(waiting.length > 0 && {
      pools: waiting.map(({ database, user, clientsWaiting, maxWaitS }) => ({
        pool: `${database}/${user}`,
        clientsWaiting,
        maxWaitS,
      })),
    }),
    ...(pools.status === 'rejected' && { pgbouncer: (pools.reason as Error).message }),
  }
}

const WATCH_MS = 1_500
const LOOK_EVERY_MS = 150

/**
 * The pools when their queue is at its longest, or as they are where a connection is at hand. A queue whose clients have
 * just been turned away, and come again, looks short for a moment.
 */
async function longestQueue(pgbouncer: PgBouncer): Promise<Pool[]> {
  const longest = (pools: readonly Pool[]) => Math.max(0, ...pools.map(({ maxWaitS }) => maxWaitS))
  const isFull = ({ clientsWaiting, serversActive, serversOpen }: Pool) =>
    clientsWaiting > 0 || (serversActive > 0 && serversActive === serversOpen)
  const until = performance.now() + WATCH_MS
  let seen = await pgbouncer.pools()
  for (let now = seen; now.some(isFull) && longest(seen) <= WAIT_LIMIT_S && performance.now() < until; ) {
    await delay(LOOK_EVERY_MS)
    now = await pgbouncer.pools()
    if (longest(now) > longest(seen)) seen = now
  }
  return seen
}

async function waitsOfProcesses(db: Queryable): Promise<{ waitS: number; waits: number; refused: number }> {
  const [row] = await db.query<{ waitS: number; waits: number; refused: number }>(
    `select coalesce(max(greatest(wait_p95_s, case when refused > 0 then $2 else 0 end)), 0)::float8 as "waitS",
       coalesce(sum(waits), 0)::int as waits, coalesce(sum(refused), 0)::int as refused
     from tabib.process where at > clock_timestamp() - make_interval(secs => $1)`,
    [FRESH_S, REFUSED_S],
  )
  return row!
}

function refusedHere(error: unknown): { waitS: number; refusedHere: string } {
  if (!(error instanceof TabibError) || error.code !== 'POOL_EXHAUSTED') throw error
  return { waitS: REFUSED_S, refusedHere: error.message }
}
