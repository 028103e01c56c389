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
    // A relay that dies for good, on an event that has killed it as often as is borne; others wait behind it.
    inject: async (world) => {
      const relay = await world.startWorkers(['outbox-relay'])
      relay.signal('SIGKILL')
      await relay.exited
      const [lethal] = await world.produce('communication', { count: 1, ageS: 20 })
      await world.produce('communication', { count: 20, ageS: 15 })
      await world.db.query(
        `insert into tabib.outbox_attempt (service, suspects, event_id, attempts) values ('communication', 1, $1, 5)
         on conflict (service) do update set suspects = 1, event_id = $1, attempts = 5`,
        [lethal],
      )
      await world.db.query(
        `update tabib.outbox_lease set expires_at = now() - interval '20 s' where service = 'communication'`,
      )
      return relay
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
