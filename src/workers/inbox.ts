import { createApp } from '../app.ts'
import { drainConsumer, runConsumer } from '../domain/inbox/consume.ts'
import { CONSUMERS, type ConsumerSpec, durableOf } from '../domain/inbox/consumers.ts'
import type { ContinuousWorker } from '../worker.ts'

export const inbox: ContinuousWorker = {
  name: 'inbox',
  describe: 'consumes events once each, quarantines what cannot be handled',
  // The longest round: a batch of slow handlers, or the longest back-off.
  cadence: { loops: CONSUMERS.map(durableOf), aliveWithinMs: 120_000 },
  needs: ['nats'],
  async run(app, { name, signal, passed, failed }) {
    // Connections of its own: slow handlers must not keep heartbeats and leases waiting.
    await using own = createApp(app.config, { log: app.log })
    await runConsumer(own, consumerOf(name), { signal, onPass: passed, onOutage: failed })
  },
  once: (app, { name, signal }) => drainConsumer(app, consumerOf(name), { signal }),
}

const consumerOf = (durable: string): ConsumerSpec => CONSUMERS.find((one) => durableOf(one) === durable)!
