import { watchRefunds } from '../domain/payments/escalate-refunds.ts'
import type { ScheduledWorker } from '../worker.ts'

export const refundWatch: ScheduledWorker = {
  name: 'refund-watch',
  describe:
    'escalates refunds that nobody decides about: to the ops channel, and to clinician or supervisor, once each',
  cadence: { everyMs: 60_000 },
  needs: [],
  pass: (app) => watchRefunds(app),
}
