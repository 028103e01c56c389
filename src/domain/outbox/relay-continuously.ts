import type { Nats } from '../../adapters/nats/client.ts'
import type { Database } from '../../adapters/postgres/client.ts'
import type { Service } from '../../service.ts'
import { openRelay, type RelayOptions, type RelayPass } from './relay.ts'

export interface RelayWatch {
  /** Ends the loop after the pass under way; the lease is then given back. */
  signal: AbortSignal
  passed(pass: RelayPass): void
  failed(error: unknown): void
}

/** A producer may publish an empty message here after its commit; the relay then looks at once instead of at its next poll. */
export const wakeSubjectOf = (service: Service): string => `tabib.wake.${service}`

const FASTEST_POLL_MS = 1
const SLOWEST_POLL_MS = 250
const BUSY_FOR_MS = 1_000
const SHORTEST_BACK_OFF_MS = 100
const LONGEST_BACK_OFF_MS = 5_000

/**
 * Relays one service's outbox until the signal: polls every millisecond while events come, ever more rarely (up to 250 ms)
 * when none do, at once when woken; waits for the lease as a standby; backs off with jitter while Postgres or NATS is
 * away. Never throws. `nats` must be opened with `onDisconnect: 'fail'` (see `openRelay`).
 */
export async function relayContinuously(
  { db, nats }: { db: Database; nats: Nats },
  options: RelayOptions,
  { signal, passed, failed }: RelayWatch,
): Promise<void> {
  const { leaseTtlMs = 5_000, source } = options
  const relay = openRelay({ db, nats }, options)
  const bell = openBell(signal)
  let pollMs = FASTEST_POLL_MS
  let backOffMs = SHORTEST_BACK_OFF_MS
  let busyUntilMs = Number.NEGATIVE_INFINITY
  let leading = false
  let listening = false

  // A lost connection closes for good and takes the subscription with it, hence one for every connection.
  const listen = async () => {
    listening = true
    try {
      await nats.listen(wakeSubjectOf(source.service), () => {
        if (leading) bell.ring()
      })
      await nats.closed()
    } catch {
      // The next pass tells that NATS is away; polling needs no wake-up.
    } finally {
      listening = false
    }
  }
  const pollAfter = (pass: Extract<RelayPass, { kind: 'relayed' }>): number => {
    if (pass.more) return 0
    const now = performance.now()
    if (pass.published > 0) busyUntilMs = now + BUSY_FOR_MS
    pollMs = now < busyUntilMs ? FASTEST_POLL_MS : Math.min(pollMs * 2, SLOWEST_POLL_MS)
    return pollMs
  }
  const backOff = (): number => {
    const waitMs = SHORTEST_BACK_OFF_MS + Math.random() * (backOffMs - SHORTEST_BACK_OFF_MS)
    backOffMs = Math.min(backOffMs * 2, LONGEST_BACK_OFF_MS)
    return waitMs
  }
  const step = async (): Promise<number> => {
    const pass = await relay.pass()
    passed(pass)
    leading = pass.kind === 'relayed'
    if (pass.kind === 'blocked') return backOff()
    backOffMs = SHORTEST_BACK_OFF_MS
    if (pass.kind === 'relayed') {
      if (!listening) void listen()
      return pollAfter(pass)
    }
    // A lease given back is noticed by the poll, one that runs out a moment after it has.
    return Math.min(Math.max(leaseTtlMs / 4, 250), pass.expiresInMs + 10 + Math.random() * 50)
  }

  try {
    while (!signal.aborted) {
      const waitMs = await step().catch((error: unknown) => {
        leading = false
        failed(error)
        return backOff()
      })
      if (waitMs > 0) await bell.wait(waitMs)
    }
  } finally {
    await Promise.resolve(relay[Symbol.asyncDispose]()).catch(failed)
  }
}

/** A wait that ends early when rung; rung while nobody waits, the next wait is skipped. */
function openBell(signal: AbortSignal): { ring(): void; wait(ms: number): Promise<void> } {
  let rung = false
  let wake: (() => void) | undefined
  const ring = () => {
    rung = true
    wake?.()
  }
  signal.addEventListener('abort', ring, { once: true })
  return {
    ring,
    async wait(ms) {
      if (!rung && !signal.aborted) {
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, ms)
          wake = () => {
            clearTimeout(timer)
            resolve()
          }
        })
      }
      wake = undefined
      rung = false
    },
  }
}
