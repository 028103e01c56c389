import { TabibCommand } from '../../command.ts'
import { listWorkers } from '../../domain/workers/list.ts'
import { table } from '../../render.ts'
import type { Worker } from '../../worker.ts'
import { workers } from '../../workers/index.ts'

export default class WorkerList extends TabibCommand<typeof WorkerList> {
  static override summary = 'List the background workers, where they run and what they last did.'
  static override description =
    'One line a process. "silent" has missed its time and pages; "stopped" was drained or ran once; "never" has not run for a day.'
  static override examples = ['<%= config.bin %> worker list', '<%= config.bin %> worker list --json']

  async run(): Promise<void> {
    const app = await this.openApp()
    const onRecord = await listWorkers(app)
    const result = workers.flatMap((worker) => {
      const known = { name: worker.name, describe: worker.describe, cadence: cadenceOf(worker) }
      const processes = onRecord.filter(({ name }) => name === worker.name)
      return (processes.length > 0 ? processes : [NEVER]).map((process) => ({ ...process, ...known }))
    })
    this.succeed({
      result,
      text: () =>
        table(
          result.map((row) => ({
            worker: row.name,
            cadence: row.cadence,
            state: row.state,
            host: row.host,
            'last pass': row.lastPassAt,
            'next pass': row.nextPassAt,
            result: row.lastError ?? brief(row.lastResult),
          })),
          ['worker', 'cadence', 'state', 'host', 'last pass', 'next pass', 'result'],
        ),
    })
  }
}

const NEVER = {
  state: 'never',
  host: null,
  pid: null,
  version: null,
  beatAt: null,
  lastPassAt: null,
  nextPassAt: null,
  lastResult: null,
  lastError: null,
  passes: 0,
  failures: 0,
}

function cadenceOf({ cadence }: Worker): string {
  if ('loops' in cadence) return 'continuous'
  const minutes = cadence.everyMs / 60_000
  if (minutes >= 60) return `every ${minutes / 60} h`
  return minutes >= 1 ? `every ${minutes} min` : `every ${cadence.everyMs / 1_000} s`
}

/** What happened, in few words: words and counts above zero, by loop where there are several. */
function brief(result: unknown): string {
  if (typeof result !== 'object' || result === null) return ''
  const words = Object.entries(result).flatMap(([name, value]) => {
    if (typeof value === 'object') {
      const inner = brief(value)
      return inner === '' ? [] : [`${name}: ${inner}`]
    }
    if (typeof value === 'number') return value > 0 ? [`${name} ${value}`] : []
    return typeof value === 'string' ? [value] : []
  })
  return words.join(', ')
}
