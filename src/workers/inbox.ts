import { createApp } from '../app.ts'
import { drainConsumer, runConsumer } from '../domain/inbox/consume.ts'
import { CONSUMERS, durableOf } from '../domain/inbox/consumers.ts'
import type { ContinuousWorker } from '../worker.ts'

export const inbox: ContinuousWorker = {
  name: 'inbox',
  describe: 'consumes events once each, quarantines what cannot be handled',
  // The longest round: a batch of slow handlers, or the longest back-off.
  cadence: { loops: CONSUMERS.map(durableOf), aliveWithinMs: 120_000 },
  needs: ['nats'],
  async run(app, { signal, passed, failed }) {
    // Connections of its own: slow handlers must not keep heartbeats and leases waiting.
    await using own = createApp(app.config, { log: app.log })
    await Promise.all(
      CONSUMERS.map((consumer) =>
        runConsumer(own, consumer, {
          signal,
          onPass: (pass) => passed(durableOf(consumer), pass),
          onOutage: (error) => failed(durableOf(consumer), error),
        }),
      ),
    )
  },
  async once(app, { signal }) {
    const passes = CONSUMERS.map(async (consumer) => [
      durableOf(consumer),
      await drainConsumer(app, consumer, { signal }),
    ])
    return Object.fromEntries(await Promise.all(passes))
  },
}
