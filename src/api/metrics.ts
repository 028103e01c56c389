import type { FastifyInstance } from 'fastify'
import { Counter, Gauge, Histogram, Registry } from 'prom-client'
import type { App } from '../app.ts'
import { catalogMetrics } from '../catalog/metrics.ts'
import type { Fleet, RunningWorker } from '../worker.ts'

/** `/metrics` in Prometheus's text format: the catalog's figures, and what the workers of this process did. */
export async function metricsRoute(server: FastifyInstance, app: App, fleet: Fleet): Promise<void> {
  const registry = new Registry()
  await catalogMetrics(app, registry)
  workerMetrics(fleet, registry)
  waitMetrics(app, registry)
  answerMetrics(server, registry)
  server.get('/metrics', async (_request, reply) =>
    reply.type(registry.contentType).send(await registry.metrics()),
  )
}

function answerMetrics(server: FastifyInstance, registry: Registry): void {
  const answers = new Counter({
    name: 'tabib_api_answers_total',
    help: 'Requests that this process answered, by route and status: 503 while what they need is away, 202 for what waits in the preflight.',
    labelNames: ['method', 'route', 'status'],
    registers: [registry],
  })
  server.addHook('onResponse', async ({ method, routeOptions: { url } }, { statusCode }) => {
    // Only routes that there are: callers can write anything.
    if (url?.startsWith('/api/')) answers.inc({ method, route: url, status: statusCode })
  })
}

function waitMetrics({ waits }: App, registry: Registry): void {
  const registers = [registry]
  const seconds = new Histogram({
    name: 'tabib_database_wait_seconds',
    help: 'How long work of this process waited for a database connection.',
    buckets: [0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5],
    registers,
  })
  const refused = new Counter({
    name: 'tabib_database_refused_total',
    help: 'Work of this process that got no database connection in time; of an API, answered with 503.',
    registers,
  })
  waits.listen((wait) => {
    seconds.observe(wait.seconds)
    if (wait.refused) refused.inc()
  })
}

function workerMetrics({ running }: Fleet, registry: Registry): void {
  const registers = [registry]
  const labelNames = ['worker']
  const read = (figure: (one: RunningWorker) => number | undefined) =>
    function collect(this: { reset(): void } & ({ set: Set } | { inc: Set })) {
      this.reset()
      for (const one of running) {
        const value = figure(one)
        if (value === undefined) continue
        const labels = { worker: one.worker.name }
        if ('set' in this) this.set(labels, value)
        else this.inc(labels, value)
      }
    }
  new Gauge({
    name: 'tabib_worker_last_pass_timestamp_seconds',
    help: 'When the last pass of a worker of this process ended, as Unix time.',
    labelNames,
    registers,
    collect: read(({ state: { lastPassAt } }) =>
      lastPassAt === undefined ? undefined : (performance.timeOrigin + lastPassAt) / 1_000,
    ),
  })
  new Gauge({
    name: 'tabib_worker_alive',
    help: '1 while a worker of this process makes progress, 0 when it hangs.',
    labelNames,
    registers,
    collect: read((one) => (one.alive() ? 1 : 0)),
  })
  new Counter({
    name: 'tabib_worker_passes_total',
    help: 'Passes that ended well, since the process started.',
    labelNames,
    registers,
    collect: read(({ state }) => state.passes),
  })
  new Counter({
    name: 'tabib_worker_failures_total',
    help: 'Passes that failed, since the process started.',
    labelNames,
    registers,
    collect: read(({ state }) => state.failures),
  })
  ledgerMetrics(running, registers)
  const relay = running.find(({ worker }) => worker.name === 'outbox-relay')
  if (!relay) return
  new Counter({
    name: 'tabib_outbox_published_total',
    help: 'Events that the relay of this process published, since the process started.',
    labelNames: ['service'],
    registers,
    collect() {
      this.reset()
      for (const [service, totals] of relay.state.totals) this.inc({ service }, totals.published ?? 0)
    },
  })
}

/** What the last nightly verification of the ledger saw; nothing before there was one. */
function ledgerMetrics(running: readonly RunningWorker[], registers: Registry[]): void {
  const verifier = running.find(({ worker }) => worker.name === 'ledger-integrity')
  if (!verifier) return
  for (const [name, fact, help] of [
    ['findings', 'findings', 'What the last verification of the ledger found; duplicates included.'],
    ['frozen', 'frozen', 'Accounts that the last verification of the ledger froze.'],
    ['new_entries', 'newEntries', 'Entries that no seal covered before the last verification.'],
    ['sealed_entries', 'sealedEntries', 'Sealed entries that the last verification read again.'],
  ] as const) {
    new Gauge({
      name: `billing_ledger_verification_${name}`,
      help,
      registers,
      collect() {
        this.remove()
        const seen = verifier.state.results.get(verifier.worker.name) as Record<string, unknown> | undefined
        if (typeof seen?.[fact] === 'number') this.set(seen[fact])
      },
    })
  }
}

type Set = (labels: { worker: string }, value: number) => void
