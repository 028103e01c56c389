import type { BuiltMode, FailureMode, Fires } from '../failure-mode.ts'
import { impactOf, runbookPath } from '../runbook.ts'
import { commandLine } from '../status.ts'

const COLUMNS = 24
const PANEL = { w: 8, h: 7 }

/** A Grafana dashboard (schema 39): a row a service, a panel a built mode with its threshold drawn in. */
export function grafanaDashboard(
  modes: readonly FailureMode[],
  { runbookBaseUrl }: { runbookBaseUrl: string },
): object {
  const built = modes.filter((mode) => mode.state === 'built')
  const services = [...new Set(built.map(({ id }) => id.split('/')[0] ?? ''))]
  const panels: object[] = []
  let y = 0
  for (const service of services) {
    const own = built.filter(({ id }) => id.startsWith(`${service}/`))
    panels.push({
      id: panels.length + 1,
      type: 'row',
      title: service,
      collapsed: false,
      gridPos: { x: 0, y, w: COLUMNS, h: 1 },
      panels: [],
    })
    y += 1
    const across = COLUMNS / PANEL.w
    own.forEach((mode, i) => {
      const gridPos = { ...PANEL, x: (i % across) * PANEL.w, y: y + Math.floor(i / across) * PANEL.h }
      panels.push({ id: panels.length + 1, gridPos, ...panel(mode, runbookBaseUrl) })
    })
    y += Math.ceil(own.length / across) * PANEL.h
  }
  return {
    uid: 'tabib-catalog',
    title: 'tabib: failure modes',
    tags: ['tabib'],
    timezone: 'browser',
    schemaVersion: 39,
    refresh: '30s',
    time: { from: 'now-6h', to: 'now' },
    templating: {
      list: [{ name: 'datasource', type: 'datasource', query: 'prometheus', label: 'Prometheus' }],
    },
    panels,
  }
}

function panel(mode: BuiltMode, runbookBaseUrl: string): object {
  const { metric, fires } = mode.detect
  const metrics = 'climbs' in fires ? fires.climbs : [metric]
  const path = runbookPath(mode.id)
  const linked = path !== undefined && runbookBaseUrl !== ''
  return {
    type: 'timeseries',
    title: `${mode.id}: ${mode.title}`,
    description: [impactOf(mode.id), `\`${commandLine(mode)}\``, path].filter(Boolean).join('\n\n'),
    datasource: { type: 'prometheus', uid: '$datasource' },
    targets: metrics.map((name, i) => ({
      refId: String.fromCharCode(65 + i),
      expr: `max(${name})`,
      legendFormat: name,
    })),
    fieldConfig: {
      defaults: {
        unit: metric.endsWith('_seconds') ? 's' : 'none',
        min: 0,
        custom: { thresholdsStyle: { mode: 'climbs' in fires ? 'off' : 'line+area' } },
        thresholds: { mode: 'absolute', steps: thresholds(fires) },
      },
      overrides: [],
    },
    ...(linked ? { links: [{ title: 'Runbook', url: new URL(path, withSlash(runbookBaseUrl)).href }] } : {}),
  }
}

function thresholds(fires: Fires): { color: string; value: number | null }[] {
  if ('above' in fires)
    return [
      { color: 'green', value: null },
      { color: 'red', value: fires.above },
    ]
  if ('below' in fires)
    return [
      { color: 'red', value: null },
      { color: 'green', value: fires.below },
    ]
  return [{ color: 'green', value: null }]
}

const withSlash = (base: string): string => (base.endsWith('/') ? base : `${base}/`)
