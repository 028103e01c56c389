import { type HeldProcess, startHeldProcess } from '../../adapters/held-process/client.ts'
import type { Config } from '../../config.ts'
import { type ErrorCode, TabibError } from '../../errors.ts'
import type { HeldBatch } from './render-batch.ts'

/** What the process that renders (workers/statement-renderer.ts) is told: first the configuration, then batches, one at a time. */
export type ToRenderer = { kind: 'open'; config: Config } | { kind: 'batch'; batch: HeldBatch }

/** What it says: an account is begun, or goes on; nothing of the batch is left; it was left, for an error that is no account's. */
export type FromRenderer =
  | { kind: 'at'; accountId: string }
  | { kind: 'done' }
  | { kind: 'stopped'; error: { code: ErrorCode; message: string; suggestions: string[] } }

/** How a renderer left a batch. `died` names what it was rendering then, if it had begun. */
export type BatchEnd =
  | { kind: 'done' }
  | { kind: 'stopped'; error: TabibError }
  | {
      kind: 'died'
      cause: 'memory' | 'timeout' | 'crash' | 'signal'
      rssMib: number
      accountId: string | undefined
    }

/** Renders batches in a process of its own that is held to its memory and time; started when needed, and again when it died. */
export interface Renderer extends Disposable {
  /** Ends early, as died by `signal`, when the signal aborts. */
  render(batch: HeldBatch, signal: AbortSignal): Promise<BatchEnd>
}

// One that keeps more than this when it is idle starts the next batch with little room.
const KEPT_SHARE = 0.7
const START_TRIES = 3
const START_MS = 30_000

export function openRenderer({ config }: { config: Config }): Renderer {
  const { memoryLimitMib, accountTimeoutMs } = config.statements
  let running: HeldProcess<ToRenderer, FromRenderer> | undefined
  let failedStarts = 0
  const start = () => {
    const started = startHeldProcess<ToRenderer, FromRenderer>('workers/statement-renderer', {
      limitMib: memoryLimitMib,
    })
    started.send({ kind: 'open', config })
    void started.ended.then(() => {
      if (running === started) running = undefined
    })
    return started
  }
  return {
    async render(batch, signal) {
      running ??= start()
      const end = await renderIn(running, batch, { signal, accountTimeoutMs })
      const beganNone = end.kind === 'died' && end.cause !== 'signal' && end.accountId === undefined
      failedStarts = beganNone ? failedStarts + 1 : 0
      if (failedStarts === START_TRIES) throw startFailure(end, memoryLimitMib)
      if (end.kind === 'done' && running && running.rssMib() > memoryLimitMib * KEPT_SHARE) running.kill()
      return end
    },
    [Symbol.dispose]() {
      running?.kill()
    },
  }
}

function renderIn(
  child: HeldProcess<ToRenderer, FromRenderer>,
  batch: HeldBatch,
  { signal, accountTimeoutMs }: { signal: AbortSignal; accountTimeoutMs: number },
): Promise<BatchEnd> {
  return new Promise((resolve) => {
    let accountId: string | undefined
    let isLate = false
    const watch = (ms: number) =>
      setTimeout(() => {
        isLate = true
        child.kill()
      }, ms)
    // It may have to start first, which is no account's time.
    let timer = watch(Math.max(accountTimeoutMs, START_MS))
    const kill = () => child.kill()
    const end = (result: BatchEnd) => {
      clearTimeout(timer)
      signal.removeEventListener('abort', kill)
      child.hear(undefined)
      resolve(result)
    }
    child.hear((message) => {
      if (message.kind === 'at') {
        accountId = message.accountId
        clearTimeout(timer)
        timer = watch(accountTimeoutMs)
      } else if (message.kind === 'done') end({ kind: 'done' })
      else {
        const { code, message: words, suggestions } = message.error
        end({ kind: 'stopped', error: new TabibError(code, words, { suggestions }) })
      }
    })
    void child.ended.then(({ cause, rssMib }) => {
      const why = isLate ? 'timeout' : cause === 'memory' || cause === 'crash' ? cause : undefined
      // It never ends by itself while it has a batch.
      end({ kind: 'died', cause: why ?? (cause === 'exit' ? 'crash' : 'signal'), rssMib, accountId })
    })
    signal.addEventListener('abort', kill, { once: true })
    if (signal.aborted) kill()
    child.send({ kind: 'batch', batch })
  })
}

function startFailure(end: BatchEnd, memoryLimitMib: number): TabibError {
  const { cause, rssMib } = end as BatchEnd & { kind: 'died' }
  const why =
    cause === 'memory'
      ? `it takes ${rssMib} MiB before it renders anything, and may have ${memoryLimitMib}`
      : cause === 'timeout'
        ? 'it was not ready in time'
        : 'it ends at its start'
  return new TabibError('RENDERER_FAILED', `no statement can be rendered: ${why}`, {
    suggestions: ['tabib doctor'],
    ref: 'runbooks/billing/fm-16-pdf-renderer-out-of-memory.md',
    context: { cause, rssMib, memoryLimitMib },
  })
}
