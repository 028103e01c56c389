import { outboxLag, outboxPending } from '../../domain/outbox/backlog.ts'
import { compareWithStream } from '../../domain/outbox/compare.ts'
import { failureMode } from '../failure-mode.ts'

export default failureMode({
  id: 'virtual-care/F12',
  kind: 'alert',
  title: 'JetStream is unavailable and the virtual care outbox is more than 5 minutes behind',
  severity: 'page',
  detect: {
    metric: 'vcare_outbox_lag_seconds',
    measure: async (app) => ({
      value: await outboxLag(app, { service: 'virtual-care' }),
      evidence: { pending: await outboxPending(app, { service: 'virtual-care' }) },
    }),
    fires: { above: 300, unit: 's' },
    says: (lagS) => `the oldest unpublished virtual care event is ${lagS.toFixed(1)} s old`,
    entails: [
      'billing/FM-02',
      'billing/FM-17',
      'communication/C06',
      'communication/C09',
      'tabib/worker-stopped',
    ],
  },
  mitigate: { worker: 'outbox-relay', command: ['outbox', 'relay', '--service', 'virtual-care'] },
  drill: {
    inject: async (world) => {
      await world.nats.kill()
      await world.produce('virtual-care', { count: 50, ageS: 330 })
      return { [Symbol.asyncDispose]: () => world.nats.restart() }
    },
    relent: (world) => world.nats.restart(),
    verify: (world) => compareWithStream(world.app, { service: 'virtual-care' }),
  },
})
