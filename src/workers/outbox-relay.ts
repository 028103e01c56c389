import { type App, createApp } from '../app.ts'
import type { RelayOptions } from '../domain/outbox/relay.ts'
import { relayContinuously } from '../domain/outbox/relay-continuously.ts'
import { relayUntilEmpty } from '../domain/outbox/relay-until-empty.ts'
import { outboxSource } from '../domain/outbox/source.ts'
import { SERVICES, type Service } from '../service.ts'
import type { ContinuousWorker, Loop } from '../worker.ts'

export const outboxRelay: ContinuousWorker<Service> = {
  name: 'outbox-relay',
  describe: 'publishes committed events to NATS, in order within each aggregate',
  // The longest round: a page over a link so slow that its acknowledgements time out.
  cadence: { loops: SERVICES, aliveWithinMs: 30_000 },
  needs: ['nats'],
  async run(app, loop) {
    await using own = ownConnections(app)
    await relayContinuously(own, relayOptions(app, loop), {
      signal: loop.signal,
      passed: (pass) => (pass.kind === 'blocked' ? loop.failed(pass.reason) : loop.passed(pass)),
      failed: (error) => loop.failed(error),
    })
  },
  async once(app, loop) {
    await using own = ownConnections(app)
    const relayed = await relayUntilEmpty(own, relayOptions(app, loop), loop)
    return relayed.kind === 'standby' ? { skipped: relayed.holder ?? 'another relay' } : relayed
  },
}

// A relay's connection to NATS must fail rather than resume, and one service's backlog must not starve another's lease.
const ownConnections = (app: App): App =>
  createApp(app.config, { log: app.log, onDisconnect: 'fail', maxConnections: 3, answerWithinMs: 30_000 })

function relayOptions({ config }: App, { name: service, instance }: Loop<Service>): RelayOptions {
  const { tables, poison } = config.outbox
  return { source: outboxSource(service, tables[service]), holder: instance.id, poison }
}
