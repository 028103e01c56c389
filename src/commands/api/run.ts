import { once } from 'node:events'
import { hostname } from 'node:os'
import { Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { openProcessReport } from '../../domain/cluster/process-report.ts'
import { openPreflight } from '../../domain/outbox/preflight.ts'
import { isMigrated } from '../../domain/schema/migrate.ts'
import { startWorkers, thisInstance } from '../../worker.ts'
import { outboxPreflight } from '../../workers/outbox-preflight.ts'

export default class ApiRun extends TabibCommand<typeof ApiRun> {
  static override summary =
    'Serve the API of virtual-care sessions, payments, charges and messages until SIGTERM.'
  static override description =
    'POST /api/v1/virtual-care/sessions/:id/join-token and …/join (docs/join-tokens.md), POST /api/v1/billing/payments and ' +
    '…/charges (docs/idempotency.md), /api/v1/communication/messages (docs/outbox.md), POST /api/v1/erasures (docs/erasure.md), the key sets, /livez, /readyz and /metrics. On SIGTERM or SIGINT requests under way are answered and no other is taken.'
  static override examples = [
    '<%= config.bin %> api run',
    '<%= config.bin %> api run --host 0.0.0.0 --port 8080 --context staging',
  ]
  static override flags = {
    host: Flags.string({ helpValue: '<address>', description: 'that it listens on; 0.0.0.0 in a container' }),
    port: Flags.integer({
      min: 0,
      max: 65_535,
      helpValue: '<port>',
      description: 'that it listens on; 0 takes any free one',
    }),
  }
  static override handlesSignals = true

  async run(): Promise<void> {
    const app = await this.openApp('server')
    // At 3 a.m. this is started again too: it is live, refuses what it cannot do, and takes what waits in the preflight.
    if (!(await isMigrated(app))) this.note('Postgres is away; what needs it is refused until it is back')
    const { host = app.config.api.host, port = app.config.api.port } = this.flags
    const stopped = Promise.race([
      once(process, 'SIGTERM'),
      once(process, 'SIGINT'),
      once(this.signal, 'abort'),
    ])
    const { serve } = await import('../../api/server.ts')
    const { erasureRoutes } = await import('../../api/erasure.ts')
    const { openSessionApi } = await import('../../api/sessions.ts')
    {
      // Replicas that take any free port are told apart by their process.
      const place = port === 0 ? `process ${process.pid}` : port
      await using sessions = await openSessionApi(app, `api@${hostname()}:${place}`)
      const self = thisInstance(this.config.version)
      await using _report = openProcessReport(app, { ...self, what: 'api' })
      const { preflight: waiting } = app.config.outbox
      await using preflight = waiting && openPreflight(waiting)
      // What this host accepted alone, it alone can drain.
      const fleet = startWorkers(app, preflight ? [outboxPreflight] : [], self)
      await using server = await serve(app, fleet, {
        ...{ host, port, sessions, preflight },
        routes: (scope) => erasureRoutes(scope, app, { version: this.config.version }),
      })
      this.note(`listening on ${server.url}: /api/v1 /livez /readyz /metrics`)
      await stopped
      await fleet.drain(app.config.worker.drainTimeoutMs)
    }
    this.signal.throwIfAborted()
    this.succeed({ result: {}, text: () => '' })
  }
}
