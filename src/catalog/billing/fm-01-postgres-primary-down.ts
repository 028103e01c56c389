import { setTimeout as delay } from 'node:timers/promises'
import { takesWrites } from '../../domain/cluster/writable.ts'
import { outboxPending } from '../../domain/outbox/backlog.ts'
import { compareWithStream } from '../../domain/outbox/compare.ts'
import type { World } from '../../sandbox/world.ts'
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
    entails: ['communication/C05'],
  },
  mitigate: {
    command: ['cluster', 'failover', '--confirm', 'main', '--reason', 'nobody leads'],
  },
  drill: {
    needs: { cluster: true },
    // The leader dies right after a switchover, before a standby is named that may follow it: Patroni chooses nobody.
    inject: async (world): Promise<Disaster> => {
      const relay = await world.startWorkers(['outbox-relay'])
      const writer = startWriter(world)
      const killed = await world.cluster!.strand()
      return {
        writer,
        async [Symbol.asyncDispose]() {
          await Promise.all([writer.stop(), relay[Symbol.asyncDispose]()])
          await killed.restart()
        },
      }
    },
    verify: async (world, fault) => {
      const acknowledged = await (fault as Disaster).writer.stop()
      for (let attempt = 0; (await outboxPending(world.app, { service: 'billing' })) > 0; attempt += 1) {
        if (attempt === DRAIN_POLLS) return ['the outbox is not drained 15 s after the last write']
        await delay(100)
      }
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

const DRAIN_POLLS = 150

type Disaster = AsyncDisposable & { writer: { stop(): Promise<string[]> } }

/** Commits one event after another until it is stopped, and tells which were acknowledged; what fails, it leaves. */
function startWriter(world: World): Disaster['writer'] {
  const acknowledged: string[] = []
  let stopped = false
  const writing = (async () => {
    while (!stopped) {
      const written = await world.produce('billing', { count: 1 }).catch(() => delay(50, []))
      acknowledged.push(...written)
    }
  })()
  return {
    async stop() {
      stopped = true
      await writing
      return acknowledged
    },
  }
}
