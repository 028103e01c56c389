import { outboxLag, outboxPending } from '../../domain/outbox/backlog.ts'
import { compareWithStream } from '../../domain/outbox/compare.ts'
import { failureMode } from '../failure-mode.ts'

export default failureMode({
  id: 'billing/FM-17',
  kind: 'alert',
  title: 'The billing outbox relay is more than 30 s behind',
  severity: 'page',
  detect: {
    metric: 'billing_outbox_lag_seconds',
    measure: async (app) => ({
      value: await outboxLag(app, { service: 'billing' }),
      evidence: { pending: await outboxPending(app, { service: 'billing' }) },
    }),
    fires: { above: 30, unit: 's' },
    says: (lagS) => `the oldest unpublished billing event is ${lagS.toFixed(1)} s old`,
    entails: ['billing/FM-02', 'tabib/worker-stopped'],
  },
  mitigate: { worker: 'outbox-relay', command: ['outbox', 'relay', '--service', 'billing'] },
  drill: {
    // A relay that hangs: it holds its lease, does nothing, and wakes up long after its time.
    inject: async (world) => {
      const relay = await world.startWorkers(['outbox-relay'])
      relay.signal('SIGSTOP')
      // It hung as long ago as the oldest event, so its lease has long run out.
      await world.db.query(
        `update tabib.outbox_lease set expires_at = now() - interval '40 s' where service = 'billing'`,
      )
      await world.produce('billing', { count: 50, ageS: 45 })
      return relay
    },
    verify: (world) => compareWithStream(world.app, { service: 'billing' }),
  },
})
