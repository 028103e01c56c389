import { Args, Flags } from '@oclif/core'
import type { BuiltMode, FailureMode } from '../catalog/failure-mode.ts'
import { findMode } from '../catalog/index.ts'
import type { SpecRow } from '../catalog/spec.ts'
import type { ModeStatus } from '../catalog/status.ts'
import { TabibCommand } from '../command.ts'
import { EVIDENCE_DIR, lastJournal } from '../drill/evidence.ts'
import type { DrillJournal } from '../drill/run.ts'
import { asTabibError, mark, paint } from '../render.ts'

interface Explanation {
  mode: Pick<FailureMode, 'id' | 'kind' | 'title' | 'severity' | 'state'>
  spec: SpecRow | null
  impact: string | null
  /** What the detector sees now; null for a planned mode and where no server is configured. */
  now: ModeStatus | null
  signal: string | null
  worker: string | null
  command: string | null
  entails: string[]
  runbook: string | null
  /** The newest drill on record in the evidence folder. */
  lastDrill: Pick<DrillJournal, 'startedAt' | 'passed' | 'detectS' | 'mitigateS' | 'recoverS'> | null
}

export default class Explain extends TabibCommand<typeof Explain> {
  static override summary =
    'Explain one failure mode: impact, detection, evidence now, mitigation, runbook, last drill.'
  static override description = 'Works without a server; evidence and last drill are then left out.'
  static override examples = [
    '<%= config.bin %> explain billing/FM-17',
    '<%= config.bin %> explain communication/c06 --json',
  ]
  static override args = { mode: Args.string({ required: true, description: 'such as billing/FM-17' }) }

  static override flags = {
    evidence: Flags.string({
      default: EVIDENCE_DIR,
      helpValue: '<dir>',
      description: 'where drills left their journals',
    }),
  }

  async run(): Promise<void> {
    const mode = findMode(this.args.mode)
    const { impactOf, runbookPath } = await import('../catalog/runbook.ts')
    const { specRow } = await import('../catalog/spec.ts')
    const { commandLine, describeFires } = await import('../catalog/status.ts')
    const { id, kind, title, severity, state } = mode
    const warnings: string[] = []
    const now = mode.state === 'built' ? await this.#look(mode, warnings) : undefined
    const result: Explanation = {
      mode: { id, kind, title, severity, state },
      spec: specRow(id) ?? null,
      impact: impactOf(id) ?? null,
      now: now ?? null,
      signal: mode.state === 'built' ? signalOf(mode, describeFires(mode.detect.fires)) : null,
      worker: (mode.state === 'built' && mode.mitigate.worker) || null,
      command: mode.state === 'built' ? commandLine(mode) : null,
      entails: mode.state === 'built' ? mode.detect.entails : [],
      runbook: runbookPath(id) ?? null,
      lastDrill: (await lastJournal(this.flags.evidence, id)) ?? null,
    }
    this.succeed({ result, warnings, text: () => card(result) })
  }

  // The card must be readable in the very outage that it is about, so a server that is away is a warning.
  async #look(mode: BuiltMode, warnings: string[]): Promise<ModeStatus | undefined> {
    if ((await this.loadConfig()).databaseUrl === undefined) return undefined
    try {
      const { readStatus } = await import('../catalog/status.ts')
      const [now] = await readStatus(await this.openApp(), [mode])
      return now
    } catch (error) {
      warnings.push(asTabibError(error).message)
      return undefined
    }
  }
}

function signalOf({ detect }: BuiltMode, threshold: string): string {
  const names = 'climbs' in detect.fires ? detect.fires.climbs.join(' and ') : detect.metric
  return `${names} ${threshold}`
}

function card({
  mode,
  spec,
  impact,
  now,
  signal,
  worker,
  command,
  entails,
  runbook,
  lastDrill,
}: Explanation): string {
  const parts: [string, string | null | undefined][] = [
    ['Trigger', spec?.trigger],
    ['Impact', impact],
    ['Detection', [spec?.detection, signal].filter(Boolean).join('\n')],
    ['Now', now && `${verdictMark(now)} ${now.verdict}: ${now.message}${evidence(now)}`],
    ['Mitigation', spec?.mitigation],
    ['Contract', spec?.mitigation === undefined ? spec?.text : undefined],
    ['Worker', worker && `${worker}    (tabib worker run ${worker})`],
    ['Command', command],
    ['May fire with', entails.join(', ')],
    ['Runbook', runbook],
    [
      'Last drill',
      lastDrill
        ? drillLine(lastDrill)
        : mode.state === 'built'
          ? `none here; tabib drill run ${mode.id}`
          : null,
    ],
  ]
  const heading = `${paint('bold', mode.id)}  ${mode.title}`
  const tags = `${mode.kind}, ${mode.severity}${mode.state === 'planned' ? ', planned: nothing watches it yet' : ''}`
  const body = parts
    .filter(([, text]) => text)
    .map(([name, text]) => `${paint('bold', name)}\n${indent(text ?? '')}`)
  return [`${heading}\n${tags}`, ...body].join('\n\n')
}

function verdictMark({ verdict }: ModeStatus): string {
  return mark(({ ok: 'ok', firing: 'failed', unknown: 'warning' } as const)[verdict])
}

function evidence(now: ModeStatus): string {
  return Object.entries(now.evidence)
    .map(([name, value]) => `\n${name} ${typeof value === 'object' ? JSON.stringify(value) : String(value)}`)
    .join('')
}

function drillLine({
  startedAt,
  passed,
  detectS,
  mitigateS,
  recoverS,
}: NonNullable<Explanation['lastDrill']>): string {
  const seconds = (label: string, value: number | null) =>
    value === null ? [] : [`${label} ${value.toFixed(1)} s`]
  const times = [
    ...seconds('detected in', detectS),
    ...seconds('mitigated in', mitigateS),
    ...seconds('recovered in', recoverS),
  ]
  return `${mark(passed ? 'ok' : 'failed')} ${startedAt} ${passed ? 'passed' : 'failed'}${times.length ? `: ${times.join(', ')}` : ''}`
}

const indent = (text: string): string => text.replace(/^/gm, '  ')
