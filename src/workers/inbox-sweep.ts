import { sweepConsumers } from '../domain/inbox/sweep.ts'
import type { ScheduledWorker } from '../worker.ts'

export const inboxSweep: ScheduledWorker = {
  name: 'inbox-sweep',
  describe: 'quarantines events that killed their consumer, publishes dead letters that a crash kept back',
  cadence: { everyMs: 30_000 },
  needs: ['nats'],
  pass: (app) => sweepConsumers(app),
}
