import type { FailureMode } from '../failure-mode.ts'
import { runbookPath } from '../runbook.ts'
import { specRow } from '../spec.ts'
import { commandLine, describeFires } from '../status.ts'

/** The catalog as a page: a table a service, the specification's detection beside ours. */
export function catalogMarkdown(modes: readonly FailureMode[]): string {
  const services = [...new Set(modes.map(({ id }) => id.split('/')[0] ?? ''))]
  const built = modes.filter(({ state }) => state === 'built').length
  return [
    '# Failure modes',
    '',
    'Made by `tabib catalog export --output markdown`. The specification stands word for word in `docs/spec/`.',
    `${built} of ${modes.length} modes are built; a planned one is not watched yet.`,
    ...services.flatMap((service) => ['', `## ${service}`, '', ...table(modes, service)]),
    '',
  ].join('\n')
}

function table(modes: readonly FailureMode[], service: string): string[] {
  const rows = modes
    .filter(({ id }) => id.startsWith(`${service}/`))
    .map((mode) => {
      const detection = specRow(mode.id)?.detection ?? ''
      const path = runbookPath(mode.id)
      const id = path ? `[${mode.id}](../${path})` : mode.id
      if (mode.state === 'planned')
        return [id, mode.title, mode.kind, mode.severity, detection, 'planned', '']
      const { metric, fires } = mode.detect
      const signal = 'climbs' in fires ? fires.climbs.map(code).join(' and ') : code(metric)
      return [
        id,
        mode.title,
        mode.kind,
        mode.severity,
        detection,
        `${signal} ${describeFires(fires)}`,
        code(commandLine(mode)),
      ]
    })
  const header = ['Mode', 'Failure', 'Kind', 'Severity', 'Specified signal', 'Fires when', 'First command']
  return [header, header.map(() => '---'), ...rows].map((cells) => `| ${cells.map(escaped).join(' | ')} |`)
}

const code = (text: string): string => `\`${text}\``
const escaped = (text: string): string => text.replaceAll('|', '\\|')
