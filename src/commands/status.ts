import { Args, Flags } from '@oclif/core'
import { catalog, findMode } from '../catalog/index.ts'
import type { ModeStatus } from '../catalog/status.ts'
import { TabibCommand } from '../command.ts'
import type { Finding } from '../finding.ts'
import { mark, paint } from '../render.ts'

export default class Status extends TabibCommand<typeof Status> {
  static override summary = "Ask every failure mode's detector now: ok, firing or unknown."
  static override description =
    'Exits 1 when a mode fires, 3 when Postgres cannot be reached. Changes nothing.'
  static override examples = [
    '<%= config.bin %> status',
    '<%= config.bin %> status billing/FM-17',
    '<%= config.bin %> status --service communication --json',
  ]
  static override args = {
    mode: Args.string({ multiple: true, description: 'only these modes, such as billing/FM-17' }),
  }
  static override flags = {
    service: Flags.option({
      options: ['virtual-care', 'billing', 'communication', 'sync', 'tabib'] as const,
      description: 'only modes of this service',
    })(),
  }

  async run(): Promise<void> {
    const { service } = this.flags
    const asked = (this.args.mode ?? []).map(findMode)
    const chosen = (asked.length > 0 ? asked : catalog).filter(
      (mode) => service === undefined || mode.id.startsWith(`${service}/`),
    )
    const built = chosen.filter((mode) => mode.state === 'built')
    const planned = chosen.filter((mode) => mode.state === 'planned').map(({ id }) => id)
    const { readStatus } = await import('../catalog/status.ts')
    const modes = built.length > 0 ? await readStatus(await this.openApp(), built) : []
    const firing = modes.filter(({ verdict }) => verdict === 'firing')
    this.succeed({
      result: { findings: firing.map(findingOf), modes, planned },
      status: firing.length > 0 ? 'findings' : 'ok',
      text: () => [...modes.map(lines), '', summary(modes, planned)].join('\n').trim(),
    })
  }
}

function lines(mode: ModeStatus): string {
  const { id, title, verdict, message, threshold, evidence, next, runbook } = mode
  if (verdict === 'ok') return `${mark('ok')} ${id}: ${message} ${paint('dim', `(fires at ${threshold})`)}`
  const seen = Object.entries(evidence).map(([name, value]) => `${name} ${show(value)}`)
  return [
    `${mark(verdict === 'firing' ? 'failed' : 'warning')} ${id}: ${title}${verdict === 'unknown' ? ' — unknown' : ''}`,
    `    ${message} (fires at ${threshold})`,
    ...(seen.length > 0 ? [`    ${seen.join(', ')}`] : []),
    `    Try: ${next}`,
    ...(runbook ? [`    Runbook: ${runbook}`] : []),
  ].join('\n')
}

function summary(modes: readonly ModeStatus[], planned: readonly string[]): string {
  const count = (verdict: ModeStatus['verdict']) => modes.filter((mode) => mode.verdict === verdict).length
  const counts = `${count('firing')} firing, ${count('unknown')} unknown, ${count('ok')} ok`
  return planned.length === 0
    ? counts
    : `${counts}; ${planned.length} planned and not watched (tabib catalog list --state planned)`
}

function findingOf(mode: ModeStatus): Finding {
  return {
    id: mode.id,
    check: 'status',
    severity: ({ page: 'critical', ticket: 'error', info: 'info' } as const)[mode.severity],
    object: mode.id.split('/')[0] ?? mode.id,
    message: `${mode.title}: ${mode.message}`,
    evidence: { value: mode.value, threshold: mode.threshold, ...mode.evidence },
    fix: mode.next,
    runbook: mode.runbook,
    cacheKey: `status:${mode.id}`,
    waived: false,
  }
}

const show = (value: unknown): string => (typeof value === 'object' ? JSON.stringify(value) : String(value))
