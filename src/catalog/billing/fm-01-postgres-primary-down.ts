import { takesWrites } from '../../domain/cluster/writable.ts'
import { compareWithStream } from '../../domain/outbox/compare.ts'
import { failureMode } from '../failure-mode.ts'

export default failureMode({
  id: 'billing/FM-01',
  kind: 'alert',
  title: 'The Postgres primary is down and billing takes no writes',
  severity: 'page',
  detect: {
    metric: 'billing_database_writable',
    measure: async (app) => {
      const { value, ...evidence } = await takesWrites(app)
      return { value, evidence }
    },
    fires: { below: 1 },
    says: (value) => (value < 1 ? 'no Postgres takes writes' : 'Postgres takes writes'),
    for: '15s',
    entails: [],
  },
  mitigate: {
    command: ['cluster', 'failover', '--confirm', 'main', '--reason', 'nobody leads'],
  },
  drill: {
    needs: { cluster: true },
    // The leader dies right after a switchover, before a standby is named that may follow it: Patroni chooses nobody.
    inject: async (world) => {
      const { leader, standby } = await world.cluster!.synchronised()
      const relay = await world.startWorkers(['outbox-relay'])
      // Before the change: what a new leader acknowledges while it has no standby yet is lost with it, unless Patroni is
      // told to be strict.
      const acknowledged: string[] = []
      for (let n = 0; n < 50; n += 1) acknowledged.push(...(await world.produce('billing', { count: 1 })))
      await fetch(`${leader.url}/switchover`, {
        method: 'POST',
        body: JSON.stringify({ leader: leader.name, candidate: standby.name }),
      })
      await standby.killNode()
      return {
        acknowledged,
        async [Symbol.asyncDispose]() {
          await relay[Symbol.asyncDispose]()
          await standby.restart()
        },
      }
    },
    verify: async (world, fault) => {
      const { acknowledged } = fault as AsyncDisposable & { acknowledged: string[] }
      const kept = await world.db.query<{ id: string }>(
        'select id::text as id from billing.outbox where id = any($1::uuid[])',
        [acknowledged],
      )
      const lost = acknowledged.length - kept.length
      return [
        ...(lost > 0 ? [`${lost} of ${acknowledged.length} acknowledged transactions are lost`] : []),
        ...(await compareWithStream(world.app, { service: 'billing' })),
      ]
    },
    // A lock that nobody renews runs out after its time to live, 20 s.
    deadlineS: { recover: 30 },
  },
})
