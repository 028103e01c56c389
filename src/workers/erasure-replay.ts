import { erasurePass } from '../domain/erasure/saga.ts'
import type { ScheduledWorker } from '../worker.ts'

export const erasureReplay: ScheduledWorker = {
  name: 'erasure-replay',
  describe:
    'sends what is missing of every erasure, reads again what was acknowledged, and once more after 24 h',
  cadence: { everyMs: 5_000 },
  needs: ['nats'],
  pass: (app, signal) => erasurePass(app, { signal }),
}
