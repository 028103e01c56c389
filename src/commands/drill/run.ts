import { Args, Flags } from '@oclif/core'
import type { BuiltMode } from '../../catalog/failure-mode.ts'
import { catalog, findMode } from '../../catalog/index.ts'
import { TabibCommand } from '../../command.ts'
import { EVIDENCE_DIR, writeEvidence } from '../../drill/evidence.ts'
import type { DrillJournal } from '../../drill/run.ts'
import { TabibError } from '../../errors.ts'
import { mark, paint } from '../../render.ts'
import { SERVICES } from '../../service.ts'

export default class DrillRun extends TabibCommand<typeof DrillRun> {
  static override summary =
    'Game day: break the real thing in a private sandbox, and prove alarm, cure and recovery.'
  static override description =
    'Starts servers of its own for each drill and takes them down again. With --without-mitigation the cure is left ' +
    'out and the drill must fail (exit 1); with --control nothing is broken and every mode must stay silent.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> billing/FM-17',
    '<%= config.bin %> <%= command.id %> billing/FM-17 --without-mitigation',
    '<%= config.bin %> <%= command.id %> --all --evidence evidence/',
    '<%= config.bin %> <%= command.id %> --control',
  ]
  static override args = {
    mode: Args.string({ multiple: true, description: 'only these modes, such as billing/FM-17' }),
  }
  static override flags = {
    all: Flags.boolean({ description: 'every mode that is built' }),
    service: Flags.option({ options: [...SERVICES, 'tabib'] as const })({
      description: 'every built mode of this service',
    }),
    'without-mitigation': Flags.boolean({
      description: 'leave the cure out: the drill must fail',
      exclusive: ['control'],
    }),
    control: Flags.boolean({ description: 'break nothing: every mode must stay silent' }),
    evidence: Flags.string({
      default: EVIDENCE_DIR,
      helpValue: '<dir>',
      description: 'where journals, JUnit and Markdown go',
    }),
  }

  async run(): Promise<void> {
    const built = catalog.filter((mode): mode is BuiltMode => mode.state === 'built')
    const chosen = this.flags.control ? built.slice(0, 1) : this.#chosen(built)
    const { assertSandboxAllowed } = await import('../../sandbox/world.ts')
    assertSandboxAllowed(await this.loadConfig())
    const { runDrill } = await import('../../drill/run.ts')
    const { preparePostgres } = await import('../../sandbox/prepared.ts')
    const kind = this.flags.control
      ? 'control'
      : this.flags['without-mitigation']
        ? 'without-mitigation'
        : 'drill'
    const journals: DrillJournal[] = []
    await using prepared = chosen.length > 1 ? await preparePostgres() : undefined
    for (const mode of chosen) {
      this.signal.throwIfAborted()
      this.note(
        paint('bold', kind === 'control' ? 'control: no fault' : `${mode.id}  ${mode.title}`, process.stderr),
      )
      const journal = await runDrill(mode, {
        kind,
        catalog: built,
        signal: this.signal,
        prepared,
        onStep: ({ name, ok, atS, detail }) =>
          this.note(
            `  ${mark(ok ? 'ok' : 'failed', process.stderr)} ${atS.toFixed(1).padStart(5)} s  ${name}${detail ? `: ${detail}` : ''}`,
          ),
      })
      journals.push(journal)
    }
    const files = await writeEvidence(this.flags.evidence, journals)
    this.succeed({
      result: { journals, files },
      status: journals.every(({ passed }) => passed) ? 'ok' : 'findings',
      text: () =>
        [
          ...journals.map(
            ({ mode, passed, detectS, mitigateS, recoverS, lost }) =>
              `${mark(passed ? 'ok' : 'failed')} ${kind === 'control' ? 'control' : mode}  detect ${shown(detectS)}  mitigate ${shown(mitigateS)}  ` +
              `recover ${shown(recoverS)}  lost ${lost.length}`,
          ),
          `evidence: ${this.flags.evidence}`,
        ].join('\n'),
    })
  }

  #chosen(built: BuiltMode[]): BuiltMode[] {
    const named = (this.args.mode ?? []).map(findMode)
    const planned = named.filter(({ state }) => state === 'planned')
    if (planned.length > 0) {
      throw new TabibError(
        'USAGE',
        `${planned.map(({ id }) => id).join(', ')}: planned, there is no drill yet`,
        {
          suggestions: ['tabib catalog list --state built'],
        },
      )
    }
    const chosen = built.filter(
      ({ id }) =>
        this.flags.all || named.some((mode) => mode.id === id) || id.startsWith(`${this.flags.service}/`),
    )
    if (chosen.length === 0) {
      throw new TabibError('USAGE', 'say which drills: modes, --service or --all', {
        suggestions: ['tabib drill run --all', `tabib drill run ${built[0]?.id}`],
      })
    }
    return chosen
  }
}

const shown = (value: number | null): string => (value === null ? '–' : `${value.toFixed(1)} s`)
