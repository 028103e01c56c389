import type { Registry } from 'prom-client'
import type { App } from '../app.ts'
import { sealAge } from '../domain/ledger/seal.ts'
import { outboxLag, outboxPending } from '../domain/outbox/backlog.ts'
import { refundCounts } from '../domain/payments/refund-queue.ts'
import { type StatementCounts, statementCounts } from '../domain/statements/runs.ts'
import { metricPrefixOf, SERVICES } from '../service.ts'
import type { FailureMode } from './failure-mode.ts'
import { catalog } from './index.ts'
import { readDetector } from './status.ts'

interface Figure {
  name: string
  /** Only ever rises, and is named so. */
  counts?: true
  help: string
  read(): Promise<number | undefined>
}

/**
 * Registers a gauge for every metric that the catalog's rules read, and pending and lag of each outbox. Each is
 * measured when /metrics is scraped; one that cannot be read then is left out, since an old figure would look healthy.
 */
export async function catalogMetrics(
  app: App,
  registry: Registry,
  { modes = catalog, timeoutMs = 5_000 }: { modes?: readonly FailureMode[]; timeoutMs?: number } = {},
): Promise<void> {
  const { Counter, Gauge } = await import('prom-client')
  const known = new Set<string>()
  for (const { name, help, read, counts } of [
    ...outboxFigures(app),
    ...refundFigures(app),
    ...sealFigures(app),
    ...statementFigures(app),
    ...modeFigures(app, modes, timeoutMs),
  ]) {
    if (known.has(name)) continue
    known.add(name)
    ;new (counts ? Counter : Gauge)({
      name,
      help,
      registers: [registry],
      async collect() {
        const value = await read().catch((error: unknown) => {
          app.log.warn({ metric: name, err: error }, 'a metric could not be read')
          return undefined
        })
        this.remove()
        if (value !== undefined) this.inc(value)
      },
    })
  }
}

function outboxFigures(app: App): Figure[] {
  return SERVICES.flatMap((service) => {
    const prefix = metricPrefixOf(service)
    return [
      {
        name: `${prefix}_outbox_pending`,
        help: `Committed ${service} events that are not published yet.`,
        read: () => outboxPending(app, { service }),
      },
      {
        name: `${prefix}_outbox_lag_seconds`,
        help: `Age of the oldest committed ${service} event that is not published yet.`,
        read: () => outboxLag(app, { service }),
      },
    ]
  })
}

function refundFigures(app: App): Figure[] {
  return (['requested', 'approved', 'rejected'] as const).map((what) => ({
    name: `billing_refunds_${what}_total`,
    help: `Refunds that were ever ${what}.`,
    counts: true,
    read: async () => (await refundCounts(app))[what],
  }))
}

function sealFigures(app: App): Figure[] {
  return [
    {
      name: 'billing_ledger_seal_age_seconds',
      help: 'Since when no verification has sealed the ledger; absent where none ever did.',
      read: () => sealAge(app),
    },
  ]
}

function statementFigures(app: App): Figure[] {
  // All of one scrape come from one query.
  let asked: { at: number; counts: Promise<StatementCounts> } | undefined
  const counts = () => {
    if (asked === undefined || performance.now() - asked.at > 1_000) {
      asked = { at: performance.now(), counts: statementCounts(app) }
    }
    return asked.counts
  }
  const figure = (name: string, of: keyof StatementCounts, help: string, counter?: true): Figure => ({
    name: `billing_${name}`,
    help,
    ...(counter && { counts: counter }),
    read: async () => (await counts())[of],
  })
  return [
    figure('statements_rendered', 'rendered', 'Statements that were rendered as they should be.'),
    figure('statements_basic', 'basic', 'Statements that were rendered as basic PDFs.'),
    figure('statements_failed', 'failed', 'Accounts of statement runs that got no statement.'),
    figure('statements_pending', 'pending', 'Accounts of statement runs that wait for their statement.'),
    figure('statement_runs_open', 'openRuns', 'Statement runs that have not finished.'),
    figure('statement_renderer_deaths_total', 'deaths', 'Renderers that died, of memory or otherwise.', true),
  ]
}

function modeFigures(app: App, modes: readonly FailureMode[], timeoutMs: number): Figure[] {
  return modes
    .filter((mode) => mode.state === 'built')
    .filter(({ detect }) => !('climbs' in detect.fires))
    .map((mode) => ({
      name: mode.detect.metric,
      help: `${mode.title} (${mode.id}).`,
      read: async () => (await readDetector(app, mode, timeoutMs)).value,
    }))
}
