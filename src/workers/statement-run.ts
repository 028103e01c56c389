import { availableParallelism } from 'node:os'
import { createApp } from '../app.ts'
import { workRuns } from '../domain/statements/work-runs.ts'
import type { ContinuousWorker } from '../worker.ts'

export const statementRun: ContinuousWorker = {
  name: 'statement-run',
  describe: 'renders the batches of statement runs, and takes over those of hosts that are gone',
  cadence: { loops: ['statement-run'], aliveWithinMs: 60_000 },
  needs: [],
  async run(app, loop) {
    // Connections of its own: heartbeats and leases of others must not wait.
    await using own = createApp(app.config, { log: app.log })
    await workRuns(own, { ...optionsOf(loop), onRound: () => loop.passed({}) })
  },
  async once(app, loop) {
    let trouble: unknown
    const stop = new AbortController()
    await workRuns(app, {
      ...optionsOf(loop),
      once: true,
      signal: AbortSignal.any([loop.signal, stop.signal]),
      onTrouble: (error) => {
        trouble ??= error
        stop.abort()
      },
    })
    if (trouble !== undefined) throw trouble
    return {}
  },
}

const optionsOf = ({ instance, signal, failed }: Parameters<ContinuousWorker['run']>[1]) => ({
  concurrency: availableParallelism(),
  holder: instance.id,
  signal,
  onTrouble: failed,
})
