import { sampleOutbox } from '../domain/outbox/backlog.ts'
import { SERVICES } from '../service.ts'
import type { ScheduledWorker } from '../worker.ts'

export const outboxMonitor: ScheduledWorker = {
  name: 'outbox-monitor',
  describe: 'samples pending events and lag of each outbox, so that a climb can be judged',
  cadence: { everyMs: 15_000 },
  needs: [],
  async pass(app) {
    for (const service of SERVICES) await sampleOutbox(app, { service })
    return { sampled: SERVICES.length }
  },
}
