import { watchMessages } from '../domain/messaging/waiting.ts'
import type { ScheduledWorker } from '../worker.ts'

export const messageWatch: ScheduledWorker = {
  name: 'message-watch',
  describe:
    'lets messages expire that are too old to be sent, and pages when a channel has taken none for long',
  cadence: { everyMs: 60_000 },
  needs: [],
  pass: (app, signal) => watchMessages(app, { maxAgeMs: app.config.messaging.maxAgeMs, signal }),
}
