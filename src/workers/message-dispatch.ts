import { setTimeout as delay } from 'node:timers/promises'
import type { App } from '../app.ts'
import { openRestoreGuard } from '../domain/erasure/restore-guard.ts'
import { type DispatchPass, dispatchDue } from '../domain/messaging/dispatch-due.ts'
import type { ContinuousWorker } from '../worker.ts'

const BATCH = 64
const POLL_MS = 500

export const messageDispatch: ContinuousWorker<'dispatch'> = {
  name: 'message-dispatch',
  describe: 'sends the messages that are due, through the PHI guard, by SMS, push and e-mail',
  cadence: { loops: ['dispatch'], aliveWithinMs: 120_000 },
  needs: [],
  async run(app, loop) {
    const guard = openRestoreGuard(app)
    while (!loop.signal.aborted) {
      // In a database that was restored the erased are patients again, and must not be written to.
      await guard.assertApplied()
      const pass = await dispatchDue(app, { limit: BATCH, signal: loop.signal })
      loop.passed(pass)
      if (taken(pass) < BATCH) await delay(POLL_MS, undefined, { signal: loop.signal }).catch(() => {})
    }
  },
  async once(app: App, { signal }) {
    await openRestoreGuard(app).assertApplied()
    const sum: DispatchPass = { sent: 0, postponed: 0, failed: 0, cancelled: 0 }
    for (let full = true; full && !signal.aborted; ) {
      const pass = await dispatchDue(app, { limit: BATCH, signal })
      for (const key of Object.keys(sum) as (keyof DispatchPass)[]) sum[key] += pass[key]
      full = taken(pass) === BATCH
    }
    return sum
  },
}

const taken = (pass: DispatchPass): number => Object.values(pass).reduce((all, n) => all + n, 0)
