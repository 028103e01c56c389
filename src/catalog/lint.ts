import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Finding } from '../finding.ts'
import { packageRoot } from '../package-root.ts'
import { alertName } from './export/prometheus.ts'
import type { BuiltMode, FailureMode } from './failure-mode.ts'
import { RUNBOOK_SECTIONS, runbookPath, runbookSection } from './runbook.ts'
import { specRow, specRows } from './spec.ts'

/** What the catalog refers to and does not own. */
export interface Surroundings {
  /** Why argv (after `tabib`) would not parse; undefined when it would. */
  commandProblem(argv: readonly string[]): Promise<string | undefined>
  /** Names of the background workers. */
  workers: readonly string[]
}

/** What is looked for; a finding's id is one of these. */
export const LINT_RULES = [
  ['spec', 'every row of the specification has one card, and every card a row'],
  ['index', 'every card stands in the index once'],
  ['runbook', 'every built card has a whole runbook, and every runbook a card'],
  ['command', 'every mitigation is a command that parses'],
  ['worker', 'every mitigation names a worker that exists'],
  ['entails', 'a card entails other cards only'],
  ['alert', 'every alert name is used once'],
].map(([what, title]) => ({ id: `catalog/${what}`, category: 'catalog', title: title! }))

/**
 * Holds card, runbook, index, command and specification together, both ways. An empty list means that they agree.
 */
export async function lintCatalog(
  modes: readonly FailureMode[],
  { commandProblem, workers }: Surroundings,
): Promise<Finding[]> {
  const built = modes.filter((mode) => mode.state === 'built')
  const commands = built.map(async (mode) => {
    const problem = await commandProblem(mode.mitigate.command)
    return problem === undefined ? [] : [finding('command', mode.id, problem)]
  })
  return [
    ...againstSpec(modes),
    ...built.flatMap((mode) => [...againstRunbook(mode), ...againstCatalog(mode, modes, workers)]),
    ...sharedAlertNames(built),
    ...strayRunbooks(built),
    ...(await Promise.all(commands)).flat(),
  ]
}

function againstSpec(modes: readonly FailureMode[]): Finding[] {
  const ids = modes.map(({ id }) => id as string)
  return [
    ...[...specRows().keys()]
      .filter((id) => !ids.includes(id))
      .map((id) => finding('spec', id, 'the specification has this row and the catalog has no card for it')),
    ...ids
      .filter((id) => !id.startsWith('tabib/') && !specRow(id))
      .map((id) => finding('spec', id, 'the specification has no such row')),
    ...ids
      .filter((id, i) => ids.indexOf(id) !== i)
      .map((id) => finding('index', id, 'stands in the catalog more than once')),
  ]
}

function againstRunbook({ id, title }: BuiltMode): Finding[] {
  const path = runbookPath(id)
  if (path === undefined) return [finding('runbook', id, `has no runbook runbooks/${id.toLowerCase()}-….md`)]
  const text = readFileSync(join(packageRoot(), path), 'utf8')
  const headings = [...text.matchAll(/^## (.*)$/gm)].map(([, heading]) => heading)
  const problems: string[] = []
  if (!text.startsWith(`# ${id}: ${title}\n`))
    problems.push(`${path} does not begin with "# ${id}: ${title}"`)
  if (headings.join() !== RUNBOOK_SECTIONS.join()) {
    problems.push(`${path} has the sections ${headings.join(', ')}; it needs ${RUNBOOK_SECTIONS.join(', ')}`)
  }
  const empty = RUNBOOK_SECTIONS.filter((section) => runbookSection(id, section) === '')
  if (empty.length > 0) problems.push(`${path} says nothing under ${empty.join(', ')}`)
  if (!runbookIndex().includes(`[${title}](${path.replace('runbooks/', '')})`)) {
    problems.push(`runbooks/README.md does not link ${path} under that title`)
  }
  return problems.map((problem) => finding('runbook', id, problem))
}

function againstCatalog(
  mode: BuiltMode,
  modes: readonly FailureMode[],
  workers: readonly string[],
): Finding[] {
  const { worker } = mode.mitigate
  return [
    ...mode.detect.entails
      .filter((id) => id === mode.id || !modes.some((other) => other.id === id))
      .map((id) => finding('entails', mode.id, `entails ${id}, which is itself or no mode`)),
    ...(worker !== undefined && !workers.includes(worker)
      ? [finding('worker', mode.id, `names the worker "${worker}", which does not exist`)]
      : []),
  ]
}

function sharedAlertNames(built: readonly BuiltMode[]): Finding[] {
  const names = built.map(alertName)
  return built
    .filter((_, i) => names.indexOf(names[i] ?? '') !== i)
    .map((mode) => finding('alert', mode.id, `shares the alert name ${alertName(mode)} with another mode`))
}

function strayRunbooks(built: readonly BuiltMode[]): Finding[] {
  const known = new Set(built.map(({ id }) => runbookPath(id)))
  const root = join(packageRoot(), 'runbooks')
  if (!existsSync(root)) return []
  return readdirSync(root, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .flatMap(({ name }) => readdirSync(join(root, name)).map((file) => `runbooks/${name}/${file}`))
    .filter((path) => !known.has(path))
    .map((path) => finding('runbook', path, 'belongs to no built mode'))
}

function runbookIndex(): string {
  const path = join(packageRoot(), 'runbooks/README.md')
  return existsSync(path) ? readFileSync(path, 'utf8') : ''
}

function finding(check: string, object: string, message: string): Finding {
  return {
    id: `catalog/${check}`,
    check: 'catalog lint',
    severity: 'error',
    object,
    message,
    evidence: {},
    fix: null,
    runbook: null,
    cacheKey: `catalog/${check}:${object}:${message}`,
    waived: false,
  }
}
