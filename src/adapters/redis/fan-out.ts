import { openRedis } from './client.ts'

const RUNS = 'statement-runs'
const BATCHES = 'statement-batches'
/** Redis that says nothing for so long is away. */
const ANSWER_MS = 5_000

/** The batches of statement runs, handed out to whichever host is free. Jobs carry ids: what they are lies in Postgres. */
export interface FanOut extends AsyncDisposable {
  /** False while Redis is away: nothing is handed out then. */
  readonly connected: boolean
  /** Puts a run's batches in, as children of the run (a flow of BullMQ). False when Redis did not take them. */
  add(runId: string, batches: readonly number[]): Promise<boolean>
  /**
   * Calls `onBatch` for batches, as many at once as `concurrency` says, and `onRun` when all batches of one have been handed
   * out and have settled. What they throw is their own affair.
   */
  take(
    concurrency: number,
    calls: { onBatch(runId: string, n: number): Promise<unknown>; onRun(runId: string): Promise<unknown> },
  ): Promise<void>
}

/** Opens the queue role of Redis; never waits for it. */
export function openFanOut({ url }: { url: string }): FanOut {
  const redis = openRedis({ url, name: 'tabib statements', queue: true })
  void redis.connect().catch(() => {})
  const options = { connection: redis, prefix: 'tabib', skipVersionCheck: true }
  const job = { removeOnComplete: true, removeOnFail: true }
  const closing: (() => Promise<unknown>)[] = []
  return {
    get connected() {
      return redis.status === 'ready'
    },
    async add(runId, batches) {
      if (redis.status !== 'ready' || batches.length === 0) return false
      const { FlowProducer } = await import('bullmq')
      const flows = new FlowProducer(options)
      flows.on('error', () => {})
      const children = batches.map((n) => ({
        name: 'batch',
        queueName: BATCHES,
        data: { runId, n },
        opts: job,
      }))
      const added = flows.add({ name: 'run', queueName: RUNS, data: { runId }, opts: job, children }).then(
        () => true,
        () => false,
      )
      return within(added, false)
    },
    async take(concurrency, { onBatch, onRun }) {
      const { Worker } = await import('bullmq')
      const settle = (work: Promise<unknown>) => work.then(() => {}).catch(() => {})
      const workers = [
        new Worker(BATCHES, ({ data }) => settle(onBatch(data.runId, data.n)), { ...options, concurrency }),
        new Worker(RUNS, ({ data }) => settle(onRun(data.runId)), { ...options, concurrency: 1 }),
      ]
      for (const worker of workers) {
        worker.on('error', () => {})
        closing.push(() => worker.close(redis.status !== 'ready'))
      }
    },
    async [Symbol.asyncDispose]() {
      await within(Promise.allSettled(closing.map((close) => close())), undefined)
      redis.disconnect()
    },
  }
}

async function within<T>(work: Promise<T>, otherwise: T): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<T>((resolve) => {
    timer = setTimeout(resolve, ANSWER_MS, otherwise)
  })
  try {
    return await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}
