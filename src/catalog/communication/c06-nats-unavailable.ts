import { setTimeout as delay } from 'node:timers/promises'
import { outboxLag, outboxPending } from '../../domain/outbox/backlog.ts'
import { compareWithStream } from '../../domain/outbox/compare.ts'
import { TabibError } from '../../errors.ts'
import type { World } from '../../sandbox/world.ts'
import { failureMode } from '../failure-mode.ts'

export default failureMode({
  id: 'communication/C06',
  kind: 'alert',
  title: 'JetStream is unavailable and the communication outbox is more than 30 s behind',
  severity: 'page',
  detect: {
    metric: 'communication_outbox_lag_seconds',
    measure: async (app) => ({
      value: await outboxLag(app, { service: 'communication' }),
      evidence: { pending: await outboxPending(app, { service: 'communication' }) },
    }),
    fires: { above: 30, unit: 's' },
    says: (lagS) => `the oldest unpublished communication event is ${lagS.toFixed(1)} s old`,
    entails: [
      'communication/C09',
      'billing/FM-02',
      'billing/FM-17',
      'virtual-care/F12',
      'tabib/worker-stopped',
    ],
  },
  mitigate: { worker: 'outbox-relay', command: ['outbox', 'relay', '--service', 'communication'] },
  drill: {
    needs: { natsNodes: 3 },
    // Three nodes that run and cannot hear each other: clients connect, and nothing is stored for want of a majority.
    inject: async (world) => {
      const partition = await world.nats.split()
      await world.produce('communication', { count: 50, ageS: 45 })
      return partition
    },
    relent: async (world, partition) => {
      await partition[Symbol.asyncDispose]()
      await streamHasLeader(world, 'communication-evt')
    },
    verify: (world) => compareWithStream(world.app, { service: 'communication' }),
    deadlineS: { recover: 60 },
  },
})

const ELECTION_LIMIT_MS = 30_000

/** Resolves once the healed cluster has elected the stream's leader and every replica has caught up with it. */
async function streamHasLeader(world: World, stream: string): Promise<void> {
  const deadline = performance.now() + ELECTION_LIMIT_MS
  for (;;) {
    const cluster = (await world.app.nats.stream(stream).catch(() => undefined))?.cluster
    if (cluster?.leader && cluster.replicas?.every(({ current, offline }) => current && !offline)) return
    if (performance.now() > deadline) {
      throw new TabibError(
        'TIMED_OUT',
        `${stream} has no leader ${ELECTION_LIMIT_MS / 1_000} s after the partition healed`,
      )
    }
    await delay(100)
  }
}
