import { relayLiveness } from '../../domain/outbox/backlog.ts'
import { compareWithStream } from '../../domain/outbox/compare.ts'
import { failureMode } from '../failure-mode.ts'

export default failureMode({
  id: 'communication/C09',
  kind: 'alert',
  title: 'The communication outbox relay is not alive',
  severity: 'page',
  detect: {
    metric: 'communication_outbox_relay_live',
    measure: async (app) => {
      const { live, ...evidence } = await relayLiveness(app, { service: 'communication' })
      return { value: live, evidence }
    },
    fires: { below: 1 },
    says: (live) => (live < 1 ? 'events wait and no relay holds the lease' : 'a relay is at work'),
    for: '30s',
    entails: ['communication/C06', 'tabib/worker-stopped'],
  },
  mitigate: { worker: 'outbox-relay', command: ['outbox', 'relay', '--service', 'communication'] },
  drill: {
    // An event whose headers are too many for the relay's memory: it dies on it every time, whoever starts it again, and
    // others wait behind. The next relay after these deaths must know the event without reading it.
    inject: async (world) => {
      await world.owner.query(
        `insert into communication.outbox (tenant_id, aggregate_type, aggregate_id, type, data, headers, created_at)
         select gen_random_uuid(), 'rehearsal', 'lethal', 'recorded', '{}', jsonb_object_agg(n::text, ''),
           now() - interval '20 s'
         from generate_series(1, 1000000) n`,
      )
      await world.produce('communication', { count: 20, ageS: 15 })
      for (let death = 1; death <= DEATHS; death++) {
        await using relay = world.spawn(['outbox', 'relay', '--service', 'communication'], {
          env: { NODE_OPTIONS: '--max-old-space-size=64' },
        })
        if ((await relay.exited) === 0)
          throw new Error(`the relay survived the lethal event at attempt ${death}`)
        // As if it had died long ago: a successor need not wait for the lease.
        await world.db.query(
          `update tabib.outbox_lease set expires_at = now() - interval '20 s' where service = 'communication'`,
        )
      }
      return { async [Symbol.asyncDispose]() {} }
    },
    verify: async (world) => {
      const [poison] = await world.db.query<{ reason: string }>(
        `select reason from tabib.quarantine where service = 'communication' and reason = 'crashes-relay'`,
      )
      const rest = await compareWithStream(world.app, { service: 'communication' })
      return poison ? rest : ['the event that kills the relay is not in quarantine', ...rest]
    },
  },
})

// Once among others, once in a batch, and as often alone as a relay bears.
const DEATHS = 5
