import { stringify } from 'yaml'
import type { BuiltMode, FailureMode, Fires } from '../failure-mode.ts'
import { impactOf, runbookPath } from '../runbook.ts'
import { commandLine } from '../status.ts'

interface Rule {
  alert: string
  expr: string
  for?: string
  labels: { severity: string; mode: string; service: string }
  annotations: { summary: string; description: string; runbook_url: string; command: string }
}

/** Prometheus alerting rules of every built mode, a group a service (YAML, as `promtool check rules` takes it). */
export function prometheusRules(
  modes: readonly FailureMode[],
  { runbookBaseUrl }: { runbookBaseUrl: string },
): string {
  const built = modes.filter((mode) => mode.state === 'built')
  const services = [...new Set(built.map(serviceOf))]
  const groups = services.map((service) => ({
    name: `tabib-${service}`,
    rules: built.filter((mode) => serviceOf(mode) === service).map((mode) => rule(mode, runbookBaseUrl)),
  }))
  return `# Made by: tabib catalog export --output prometheus\n${toYaml({ groups })}`
}

/**
 * Unit tests of `prometheusRules` for `promtool test rules`: each rule is shown a series that must fire it and one, on
 * the very threshold, that must not.
 */
export function prometheusRuleTests(
  modes: readonly FailureMode[],
  { runbookBaseUrl, ruleFile }: { runbookBaseUrl: string; ruleFile: string },
): string {
  const tests = modes
    .filter((mode) => mode.state === 'built')
    .flatMap((mode) =>
      cases(mode.detect.metric, mode.detect.fires).map(({ name, series, fires }) => {
        const { alert, labels, annotations } = rule(mode, runbookBaseUrl)
        return {
          name: `${mode.id} ${name}`,
          interval: `${STEP_S}s`,
          input_series: series.map(([metric, values]) => ({
            series: `${metric}{instance="worker:9464"}`,
            values,
          })),
          alert_rule_test: [
            {
              eval_time: `${STEP_S * STEPS}s`,
              alertname: alert,
              exp_alerts: fires ? [{ exp_labels: labels, exp_annotations: annotations }] : [],
            },
          ],
        }
      }),
    )
  return `# Made by: tabib catalog export --output prometheus\n${toYaml({
    rule_files: [ruleFile],
    // Rules are judged by ranges of their own: evaluated less often than the samples come, the tests cost a third.
    evaluation_interval: `${4 * STEP_S}s`,
    tests,
  })}`
}

/** The alert's name: id and runbook's name, so that rewording a title silences nobody's silence. */
export function alertName(mode: BuiltMode): string {
  const slug = runbookPath(mode.id)?.split('/').at(-1)?.replace(/\.md$/, '') ?? mode.id.split('/')[1] ?? ''
  return `${serviceOf(mode)}-${slug}`
    .split('-')
    .map((word) => word.charAt(0).toUpperCase() + word.slice(1))
    .join('')
}

/** PromQL that is true when the figure says so. */
export function expression(metric: string, fires: Fires): string {
  // Every worker exports the same figure from the same database: the aggregate makes them one alert.
  if ('above' in fires) return `max(${metric}) > ${fires.above}`
  // A figure that must stay up is missing as well when nobody is left to export it.
  if ('below' in fires) return `max(${metric}) < ${fires.below} or absent(${metric})`
  // A range holds both its ends: a second less, or a sample on the boundary would stand in both halves.
  const half = fires.overS / 2
  return fires.climbs
    .map((name) => {
      const later = `max(min_over_time(${name}[${half - 1}s]))`
      return `${later} > max(max_over_time(${name}[${half}s] offset ${half}s))`
    })
    .join('\nand ')
}

function rule(mode: BuiltMode, runbookBaseUrl: string): Rule {
  const { detect } = mode
  return {
    alert: alertName(mode),
    expr: expression(detect.metric, detect.fires),
    ...(detect.for === undefined ? {} : { for: detect.for }),
    labels: { severity: mode.severity, mode: mode.id, service: serviceOf(mode) },
    annotations: {
      summary: mode.title,
      description: impactOf(mode.id) ?? mode.title,
      runbook_url: runbookUrl(runbookBaseUrl, runbookPath(mode.id) ?? ''),
      command: commandLine(mode),
    },
  }
}

const STEP_S = 15
const STEPS = 80

interface Case {
  name: string
  series: [metric: string, values: string][]
  fires: boolean
}

function cases(metric: string, fires: Fires): Case[] {
  const constant = (value: number) => `${value}x${STEPS}`
  if ('above' in fires) {
    return [
      { name: 'fires above the threshold', series: [[metric, constant(fires.above + 1)]], fires: true },
      { name: 'is quiet on the threshold', series: [[metric, constant(fires.above)]], fires: false },
    ]
  }
  if ('below' in fires) {
    return [
      { name: 'fires below the threshold', series: [[metric, constant(fires.below - 1)]], fires: true },
      { name: 'fires when nobody exports it', series: [], fires: true },
      { name: 'is quiet on the threshold', series: [[metric, constant(fires.below)]], fires: false },
    ]
  }
  const all = (values: string): [string, string][] => fires.climbs.map((name) => [name, values])
  return [
    { name: 'fires while all climb', series: all(`0+${STEP_S}x${STEPS}`), fires: true },
    { name: 'is quiet at a standing backlog', series: all(constant(1_000)), fires: false },
    {
      name: 'is quiet while a backlog drains',
      series: all(`${STEP_S * STEPS}-${STEP_S}x${STEPS}`),
      fires: false,
    },
    ...fires.climbs.map((name, i) => ({
      name: `is quiet while ${name} stands`,
      series: fires.climbs.map((one, j): [string, string] => [
        one,
        i === j ? constant(7) : `0+${STEP_S}x${STEPS}`,
      ]),
      fires: false,
    })),
  ]
}

const serviceOf = (mode: BuiltMode): string => mode.id.split('/')[0] ?? ''

function runbookUrl(base: string, path: string): string {
  return base === '' || base.endsWith('/') ? `${base}${path}` : `${base}/${path}`
}

const toYaml = (value: unknown): string => stringify(value, { lineWidth: 0, aliasDuplicateObjects: false })
