import { Args, Flags } from '@oclif/core'
import type { App } from '../../app.ts'
import { TabibCommand } from '../../command.ts'
import { openProcessReport } from '../../domain/cluster/process-report.ts'
import { assertMigrated, isMigrated } from '../../domain/schema/migrate.ts'
import { EXIT, TabibError } from '../../errors.ts'
import { counted, toJson } from '../../render.ts'
import { runOnce, startWorkers, thisInstance, type Worker } from '../../worker.ts'
import { findWorker, workers } from '../../workers/index.ts'

export default class WorkerRun extends TabibCommand<typeof WorkerRun> {
  static override summary = 'Run background workers until SIGTERM, or one pass with --once.'
  static override description =
    'SIGTERM and SIGINT drain: the pass under way ends, no other starts; a second signal ends the process at once. ' +
    'With --once a pass that another process is at is skipped, exit 0.'
  static override examples = [
    '<%= config.bin %> worker run --all',
    '<%= config.bin %> worker run outbox-relay',
    '<%= config.bin %> worker run outbox-monitor --once',
  ]
  static override args = {
    name: Args.string({ multiple: true, description: 'workers, as `worker list` names them' }),
  }
  static override flags = {
    all: Flags.boolean({ description: 'every worker' }),
    once: Flags.boolean({ description: 'one pass of each, as cron calls it', exclusive: ['host', 'port'] }),
    host: Flags.string({
      helpValue: '<address>',
      description: 'that /livez, /readyz and /metrics listen on; 0.0.0.0 in a container',
    }),
    port: Flags.integer({
      min: 0,
      max: 65_535,
      helpValue: '<port>',
      description: 'that they listen on; 0 takes any free one',
    }),
  }
  static override handlesSignals = true

  readonly #stop = new AbortController()

  async run(): Promise<void> {
    const chosen = this.#chosen()
    const app = await this.openApp()
    if (this.flags.once) await assertMigrated(app)
    const migrated = this.flags.once || (await isMigrated(app))
    if (!migrated) this.note('Postgres is away; the workers begin once it is back')
    const unwatch = this.#watchSignals()
    try {
      await (this.flags.once ? this.#once(app, chosen) : this.#run(app, chosen, { migrated }))
    } finally {
      unwatch()
    }
  }

  async #once(app: App, chosen: readonly Worker[]): Promise<void> {
    const instance = thisInstance(this.config.version)
    const result: Record<string, object> = {}
    for (const worker of chosen) {
      result[worker.name] = await runOnce(app, worker, instance, this.#stop.signal)
      // The pass ended early: what it says it did is not all there was to do.
      this.#stop.signal.throwIfAborted()
    }
    this.succeed({
      result,
      text: () =>
        Object.entries(result)
          .map(([name, outcome]) => `${name}: ${toJson(outcome, 0)}`)
          .join('\n'),
    })
  }

  async #run(app: App, chosen: readonly Worker[], { migrated }: { migrated: boolean }): Promise<void> {
    const { drainTimeoutMs, ...configured } = app.config.worker
    const { host = configured.host, port = configured.port } = this.flags
    const instance = thisInstance(this.config.version)
    await using _report = openProcessReport(app, { ...instance, what: 'worker' })
    const fleet = startWorkers(app, chosen, instance, { migrated })
    let left: string[] = []
    try {
      const { serve } = await import('../../api/server.ts')
      await using server = await serve(app, fleet, { host, port })
      this.note(`listening on ${server.url}: /livez /readyz /metrics`)
      await aborted(this.#stop.signal)
    } finally {
      left = await fleet.drain(drainTimeoutMs)
    }
    this.signal.throwIfAborted()
    if (left.length > 0) {
      throw new TabibError(
        'TIMED_OUT',
        `${left.join(', ')} had not drained after ${drainTimeoutMs / 1_000} s; other hosts take over`,
        { suggestions: ['tabib worker list'], retryable: true },
      )
    }
    const result = fleet.running.map(({ worker, state: { passes, failures } }) => ({
      name: worker.name,
      passes,
      failures,
    }))
    this.succeed({
      result,
      text: () =>
        result
          .map((one) => `${one.name}: ${counted(one.passes, 'pass', 'passes')}, ${one.failures} failed`)
          .join('\n'),
    })
  }

  #chosen(): readonly Worker[] {
    const names = this.args.name ?? []
    if (this.flags.all) return workers
    if (names.length > 0) return [...new Set(names)].map(findWorker)
    throw new TabibError('USAGE', 'name the workers to run, or give --all', {
      suggestions: ['tabib worker list', 'tabib worker run --all'],
    })
  }

  #watchSignals(): () => void {
    const onSignal = (signal: NodeJS.Signals) => {
      if (this.#stop.signal.aborted) process.exit(EXIT.interrupted)
      this.note(`${signal}: draining; a second one ends at once`)
      this.#stop.abort(
        new TabibError('INTERRUPTED', `interrupted by ${signal}`, {
          suggestions: [`tabib ${this.commandName} ${this.argv.join(' ')}`],
          retryable: true,
        }),
      )
    }
    // --timeout ends the work as a signal does; the exit code is its own.
    this.signal.addEventListener('abort', () => this.#stop.abort(this.signal.reason), { once: true })
    process.on('SIGINT', onSignal)
    process.on('SIGTERM', onSignal)
    return () => {
      process.off('SIGINT', onSignal)
      process.off('SIGTERM', onSignal)
    }
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })
}
