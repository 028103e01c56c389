import { outboxClimb } from '../../domain/outbox/backlog.ts'
import { compareWithStream } from '../../domain/outbox/compare.ts'
import { failureMode } from '../failure-mode.ts'

export default failureMode({
  id: 'billing/FM-02',
  kind: 'alert',
  title: 'NATS JetStream is unreachable and billing events queue in the outbox',
  severity: 'page',
  detect: {
    metric: 'billing_outbox_pending',
    measure: (app) => outboxClimb(app, { service: 'billing', overS: 120 }),
    fires: { climbs: ['billing_outbox_pending', 'billing_outbox_lag_seconds'], overS: 120 },
    says: (rise) => (rise > 0 ? 'pending and lag both climb' : 'pending and lag do not both climb'),
    for: '1m',
    entails: ['billing/FM-17', 'communication/C06', 'communication/C09', 'virtual-care/F12'],
  },
  mitigate: { worker: 'outbox-relay', command: ['outbox', 'relay', '--service', 'billing'] },
  drill: {
    inject: async (world) => {
      await world.nats.kill()
      for (let ageS = 120; ageS >= 0; ageS -= 5) await world.produce('billing', { count: 5, ageS })
      // What the sampler would have written in those two minutes.
      await world.db.query(
        `insert into tabib.outbox_sample (service, at, pending, lag_s)
         select 'billing', t, count(*), extract(epoch from t - min(o.created_at))
         from generate_series(now() - interval '115 s', now(), interval '5 s') t
         join billing.outbox o on o.created_at <= t and o.created_at > now() - interval '121 s'
         group by t
         on conflict do nothing`,
      )
      return { [Symbol.asyncDispose]: () => world.nats.restart() }
    },
    relent: (world) => world.nats.restart(),
    verify: (world) => compareWithStream(world.app, { service: 'billing' }),
  },
})
