import { forgetKeys } from '../domain/idempotency/forget.ts'
import { forgetInbox } from '../domain/inbox/forget.ts'
import { retainOutbox } from '../domain/outbox/retain.ts'
import { forgetCurrencyRefusals } from '../domain/payments/refusals.ts'
import { forgetHeartbeats } from '../domain/workers/heartbeat.ts'
import { SERVICES } from '../service.ts'
import type { ScheduledWorker } from '../worker.ts'

// Streams keep events for 30 days (`migrate up`), and whatever they still hold may be delivered again.
const INBOX_RETENTION_MS = 45 * 86_400_000

export const outboxRetention: ScheduledWorker = {
  name: 'outbox-retention',
  describe:
    'makes and drops the daily partitions of each outbox, forgets old inbox entries and idempotency keys',
  cadence: { everyMs: 3_600_000, limitMs: 1_800_000 },
  needs: [],
  async pass(app, signal) {
    const { retentionMs, tables } = app.config.outbox
    const result: Record<string, object> = {}
    for (const service of SERVICES) {
      const outbox = tables[service] ? {} : await retainOutbox(app, { service, retentionMs })
      const forgotten = await forgetInbox(app, { service, retentionMs: INBOX_RETENTION_MS }, { signal })
      const expiredKeys = await forgetKeys(app, { service }, { signal })
      result[service] = { ...outbox, forgotten, expiredKeys }
    }
    await forgetCurrencyRefusals(app.db)
    await forgetHeartbeats(app)
    return result
  },
}
