import { TabibCommand } from '../command.ts'
import { type Check, examineInstallation } from '../domain/doctor/examine.ts'
import type { Finding } from '../finding.ts'
import { mark } from '../render.ts'

export default class Doctor extends TabibCommand<typeof Doctor> {
  static override summary = 'Examine this installation: configuration, servers, schema, streams, pager.'
  static override description =
    'Changes nothing. Exits 1 when something is amiss, 2 when the configuration is.'
  static override examples = ['<%= config.bin %> doctor', '<%= config.bin %> doctor --context staging --json']

  async run(): Promise<void> {
    const checks = await examineInstallation(await this.openApp())
    const findings = checks.filter(({ outcome }) => outcome !== 'ok').map(findingOf)
    this.succeed({
      result: { findings, checks },
      status: findings.length > 0 ? 'findings' : 'ok',
      text: () => checks.map(lines).join('\n'),
    })
  }
}

function lines({ name, outcome, message, fix, runbook }: Check): string {
  return [
    `${mark(outcome)} ${name}: ${message}`,
    ...(fix === null ? [] : [`    Try: ${fix}`]),
    ...(runbook === null ? [] : [`    Runbook: ${runbook}`]),
  ].join('\n')
}

function findingOf({ name, outcome, message, fix, runbook }: Check): Finding {
  return {
    id: `doctor-${name.toLowerCase().replaceAll(' ', '-')}`,
    check: 'doctor',
    severity: outcome === 'warning' ? 'warning' : 'error',
    object: name,
    message,
    evidence: {},
    fix,
    runbook,
    cacheKey: `doctor:${name}`,
    waived: false,
  }
}
