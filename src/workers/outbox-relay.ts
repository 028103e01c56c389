import { type App, createApp } from '../app.ts'
import type { RelayOptions } from '../domain/outbox/relay.ts'
import { relayContinuously } from '../domain/outbox/relay-continuously.ts'
import { relayUntilEmpty } from '../domain/outbox/relay-until-empty.ts'
import { outboxSource } from '../domain/outbox/source.ts'
import { SERVICES, type Service } from '../service.ts'
import type { ContinuousWorker, Loop, WorkerResult } from '../worker.ts'

export const outboxRelay: ContinuousWorker = {
  name: 'outbox-relay',
  describe: 'publishes committed events to NATS, in order within each aggregate',
  // The longest round: a page over a link so slow that its acknowledgements time out.
  cadence: { loops: SERVICES, aliveWithinMs: 30_000 },
  needs: ['nats'],
  async run(app, loop) {
    await Promise.all(SERVICES.map((service) => runService(app, loop, service)))
  },
  async once(app, loop) {
    const results = await Promise.all(SERVICES.map((service) => runServiceOnce(app, loop, service)))
    const holders = results.filter(({ kind }) => kind === 'standby')
    const skipped = holders.length === SERVICES.length ? { skipped: String(holders[0]?.holder) } : {}
    return { ...Object.fromEntries(SERVICES.map((service, i) => [service, results[i]])), ...skipped }
  },
}

async function runService(app: App, loop: Loop, service: Service): Promise<void> {
  await using own = ownConnections(app)
  await relayContinuously(own, relayOptions(app, loop, service), {
    signal: loop.signal,
    passed: (pass) =>
      pass.kind === 'blocked' ? loop.failed(service, pass.reason) : loop.passed(service, pass),
    failed: (error) => loop.failed(service, error),
  })
}

async function runServiceOnce(
  app: App,
  loop: Loop,
  service: Service,
): Promise<WorkerResult & { kind: string; holder?: string | null }> {
  await using own = ownConnections(app)
  return await relayUntilEmpty(own, relayOptions(app, loop, service), loop)
}

// A relay's connection to NATS must fail rather than resume, and one service's backlog must not starve another's lease.
const ownConnections = (app: App): App =>
  createApp(app.config, { log: app.log, onDisconnect: 'fail', maxConnections: 3 })

function relayOptions(app: App, loop: Loop, service: Service): RelayOptions {
  const { tables, poison } = app.config.outbox
  return { source: outboxSource(service, tables[service]), holder: loop.instance.id, poison }
}
