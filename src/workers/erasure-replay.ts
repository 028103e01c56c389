import type { App } from '../app.ts'
import { ensureErasureStreams, rememberErasures } from '../domain/erasure/remember.ts'
import { erasurePass } from '../domain/erasure/saga.ts'
import { TabibError } from '../errors.ts'
import type { ScheduledWorker } from '../worker.ts'

export const erasureReplay: ScheduledWorker = {
  name: 'erasure-replay',
  describe:
    'sends what is missing of every erasure, reads again what was acknowledged, and once more after 24 h',
  cadence: { everyMs: 5_000 },
  needs: ['nats'],
  async pass(app, signal) {
    // Before anything is erased, so that no restore can bring it back unnoticed. What NATS is needed for waits for it.
    const list = await listed(app).catch((error: unknown) => {
      if (error instanceof TabibError && error.code === 'NATS_UNREACHABLE') return undefined
      throw error
    })
    return {
      ...(await erasurePass(app, { signal })),
      listed: list?.written ?? 0,
      listBehind: list?.behind ?? 0,
    }
  },
}

async function listed(app: App): Promise<{ written: number; behind: number }> {
  await ensureErasureStreams(app.nats, app.config.outbox)
  return rememberErasures(app)
}
