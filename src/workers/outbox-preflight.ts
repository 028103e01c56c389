import { setTimeout as delay } from 'node:timers/promises'
import type { App } from '../app.ts'
import { makeWaiting } from '../domain/messaging/request-message.ts'
import { type Drained, drainPreflight } from '../domain/outbox/preflight.ts'
import type { ContinuousWorker, Loop } from '../worker.ts'

const POLL_MS = 250
const LONGEST_BACK_OFF_MS = 5_000

export const outboxPreflight: ContinuousWorker<'drain'> = {
  name: 'outbox-preflight',
  describe: 'has what was accepted while Postgres took no writes made, in order and once',
  cadence: { loops: ['drain'], aliveWithinMs: 60_000 },
  needs: [],
  async run(app, loop) {
    let backOffMs = POLL_MS
    while (!loop.signal.aborted) {
      const { drained, erased, refused, stopped } = await drain(app, loop)
      if (stopped === undefined) loop.passed({ drained, erased, refused: refused.length })
      else if (!loop.signal.aborted) loop.failed(stopped)
      backOffMs = stopped === undefined ? POLL_MS : Math.min(backOffMs * 2, LONGEST_BACK_OFF_MS)
      // With jitter, so that not all hosts come at one moment to a server that is just back.
      const waitMs = stopped === undefined ? POLL_MS : backOffMs * (0.5 + Math.random() / 2)
      await delay(waitMs, undefined, { signal: loop.signal }).catch(() => {})
    }
  },
  async once(app, loop) {
    const { drained, erased, refused } = await drain(app, loop)
    return { drained, erased, refused: refused.length }
  },
}

async function drain(app: App, { signal }: Loop): Promise<Drained> {
  const { preflight } = app.config.outbox
  if (preflight === undefined) return { drained: 0, erased: 0, refused: [], stopped: undefined }
  const { db, erasureSecret } = app
  return drainPreflight(preflight.folder, {
    make: (write) => makeWaiting({ db, erasureSecret }, write),
    signal,
  })
}
