import { setTimeout as delay } from 'node:timers/promises'
import type { Database } from '../../adapters/postgres/client.ts'
import { openFanOut } from '../../adapters/redis/fan-out.ts'
import type { Config } from '../../config.ts'
import { openRenderer, type Renderer } from './renderer.ts'
import { layOutRun } from './start-run.ts'
import { claimBatch, finishRun, workBatch } from './work-batch.ts'

export interface WorkOptions {
  /** That run alone, until it has finished; all runs otherwise. */
  runId?: string | undefined
  /** Ends when no run is left that somebody else is not at. */
  once?: boolean
  /** Renderers on this host. */
  concurrency: number
  /** This process, as leases name it. */
  holder: string
  signal: AbortSignal
  /** A round ended without trouble. */
  onRound?(): void
  /** Something kept a batch from being rendered that is no account's fault. It is tried again. */
  onTrouble(error: unknown): void
}

interface Systems {
  db: Database
  config: Config
}

const ROUND_MS = 500
const LONGEST_PAUSE_MS = 10_000

/**
 * Works on statement runs side by side with whoever else does, on this host or others. Postgres says what is to be done, and
 * Redis who does it: while Redis is away, or has lost something, batches are taken from Postgres alone.
 */
export async function workRuns(app: Systems, options: WorkOptions): Promise<void> {
  const { runId, once = false, concurrency, holder, signal, onRound, onTrouble } = options
  const { redisUrl } = app.config
  await using fanOut = redisUrl === undefined ? undefined : openFanOut({ url: redisUrl })
  using renderers = openRenderers(app, concurrency)
  const finished = new AbortController()
  const ending = AbortSignal.any([signal, finished.signal])
  let working = 0
  let troubles = 0

  const take = (claim: { n?: number; runId?: string | undefined; stale?: boolean }): Promise<boolean> =>
    renderers.use(async (renderer) => {
      if (ending.aborted) return false
      working += 1
      try {
        const batch = await claimBatch(app, { holder, ...claim })
        if (batch === undefined) return false
        const { splitOff } = await workBatch(app, { batch, renderer, signal: ending })
        if (splitOff.length > 0) await fanOut?.add(batch.runId, splitOff)
        troubles = 0
        return true
      } catch (error) {
        troubles += 1
        onTrouble(error)
        return false
      } finally {
        working -= 1
      }
    })

  const added = new Set<string>()
  /** What every host does for every run: whoever comes first has done it. */
  const tend = async (): Promise<boolean> => {
    let isOpen = false
    for (const run of await openRuns(app.db, runId)) {
      isOpen = true
      if (!run.isLaidOut) await layOutRun(app, run.id)
      else if (run.queued.length > 0 && !added.has(run.id)) {
        if (await fanOut?.add(run.id, run.queued)) added.add(run.id)
      }
      await finishRun(app, run.id)
    }
    return isOpen
  }

  await fanOut?.take(concurrency, {
    onBatch: (run, n) => take({ runId: run, n }),
    onRun: (run) => finishRun(app, run),
  })
  const lane = async () => {
    while (!ending.aborted) {
      // Those that Redis hands out need no second hand.
      const tookOne = await take({ runId, stale: fanOut?.connected ?? false })
      if (!tookOne) await nap(ROUND_MS, ending)
    }
  }
  const lanes = Array.from({ length: concurrency }, lane)
  while (!ending.aborted) {
    try {
      const isOpen = await tend()
      onRound?.()
      if (!isOpen && (runId !== undefined || once)) finished.abort()
      else if (once && working === 0 && (await nothingToTake(app.db))) finished.abort()
    } catch (error) {
      troubles += 1
      onTrouble(error)
    }
    await nap(Math.min(LONGEST_PAUSE_MS, ROUND_MS * 2 ** Math.min(troubles, 5)), ending)
  }
  await Promise.all(lanes)
}

interface OpenRun {
  id: string
  isLaidOut: boolean
  queued: number[]
}

function openRuns(db: Database, runId: string | undefined): Promise<OpenRun[]> {
  return db.query<OpenRun>(
    `select r.id, laid_out_at is not null as "isLaidOut", array(
       select n from billing.statement_batch b
       where (b.tenant_id, b.run_id) = (r.tenant_id, r.id) and b.state = 'queued' order by n) as queued
     from billing.statement_run r
     where finished_at is null and ($1::uuid is null or id = $1) order by started_at`,
    [runId],
  )
}

/** Whether all that is left is in somebody's hands. */
async function nothingToTake(db: Database): Promise<boolean> {
  const [left] = await db.query<{ n: number }>(
    `select count(*)::int as n from billing.statement_run r left join billing.statement_batch b on b.run_id = r.id
     where r.finished_at is null and (r.laid_out_at is null or b.state = 'queued' or b.expires_at < clock_timestamp())`,
  )
  return left!.n === 0
}

/** As many renderers as may run at once; whoever wants one waits for one that is free. */
function openRenderers(app: Systems, count: number) {
  const free: Renderer[] = Array.from({ length: count }, () => openRenderer(app))
  const all = [...free]
  const waiting: ((renderer: Renderer) => void)[] = []
  return {
    async use<T>(work: (renderer: Renderer) => Promise<T>): Promise<T> {
      const renderer = free.pop() ?? (await new Promise<Renderer>((resolve) => waiting.push(resolve)))
      try {
        return await work(renderer)
      } finally {
        const next = waiting.shift()
        if (next) next(renderer)
        else free.push(renderer)
      }
    },
    [Symbol.dispose]() {
      for (const renderer of all) renderer[Symbol.dispose]()
    },
  }
}

async function nap(ms: number, signal: AbortSignal): Promise<void> {
  await delay(ms, undefined, { signal }).catch(() => {})
}
