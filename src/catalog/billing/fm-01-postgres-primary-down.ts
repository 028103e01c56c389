import { takesWrites } from '../../domain/cluster/writable.ts'
import { compareWithStream } from '../../domain/outbox/compare.ts'
import { TabibError } from '../../errors.ts'
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
      const writing = writeUntilStopped(world)
      await fetch(`${leader.url}/switchover`, {
        method: 'POST',
        body: JSON.stringify({ leader: leader.name, candidate: standby.name }),
      })
      await standby.killNode()
      return Object.assign(writing, {
        async [Symbol.asyncDispose]() {
          await writing.stop()
          await relay[Symbol.asyncDispose]()
          await standby.restart()
        },
      })
    },
    verify: async (world, fault) => {
      const acknowledged = await (fault as unknown as Writing).stop()
      const kept = await world.db.query<{ id: string }>(
        'select id::text as id from billing.outbox where id = any($1::uuid[])',
        [acknowledged],
      )
      const lost = acknowledged.length - kept.length
      return [
        ...(acknowledged.length === 0 ? ['nothing was ever written'] : []),
        ...(lost > 0 ? [`${lost} of ${acknowledged.length} acknowledged transactions are lost`] : []),
        ...(await compareWithStream(world.app, { service: 'billing' })),
      ]
    },
    // A lock that nobody renews runs out after its time to live, 20 s.
    deadlineS: { recover: 30 },
  },
})

interface Writing extends AsyncDisposable {
  /** Ends it, and returns the ids of all events whose transaction was acknowledged. */
  stop(): Promise<string[]>
}

/** A service at work: one event a transaction, one after another; what fails is not tried again. */
function writeUntilStopped(world: World): Writing {
  const acknowledged: string[] = []
  let stopped = false
  const running = (async () => {
    while (!stopped) {
      try {
        acknowledged.push(...(await world.produce('billing', { count: 1 })))
      } catch (error) {
        if (!(error instanceof TabibError) || error.code !== 'POSTGRES_UNREACHABLE') throw error
      }
    }
  })()
  const stop = async () => {
    stopped = true
    await running
    return acknowledged
  }
  return { stop, [Symbol.asyncDispose]: async () => void (await stop()) }
}
