import { Args, Flags } from '@oclif/core'
import { moderate, planned, TabibCommand, waitFlag } from '../../command.ts'
import { summarise } from '../../domain/dlq/plan.ts'
import { planRedrive, type Redriven, type RedrivePlan, redriveEvents } from '../../domain/dlq/redrive.ts'
import { TabibError } from '../../errors.ts'
import { quarantineFilter, quarantineFlags, reasonFilter } from '../../quarantine-flags.ts'
import { mark, quote } from '../../render.ts'

/** Events a second: `50/s`, or `50`. */
const rateFlag = Flags.custom<number>({
  helpValue: '<n>/s',
  parse: async (text) => {
    const rate = Number(/^(\d+(?:\.\d+)?)(?:\/s)?$/.exec(text)?.[1])
    if (rate > 0 && rate <= 10_000) return rate
    throw new TabibError('USAGE', `"${text}" is no rate up to 10000 a second; write 50/s`)
  },
})

export default class DlqRedrive extends TabibCommand<typeof DlqRedrive> {
  static override summary = 'Send events in quarantine again: a canary first, then the rest at a rate.'
  static override description =
    `Events go to their original subject; one that fails again is back in quarantine.
The rest is sent only when the canary was handled. Interrupted, the same command goes on where it was.`
  static override examples = [
    '<%= config.bin %> <%= command.id %> --service billing --dry-run',
    '<%= config.bin %> <%= command.id %> --fingerprint 3f9a0c21d4e8b765 --rate 20/s --wait --yes',
    '<%= config.bin %> <%= command.id %> 01930f6e-7c1a-7d2e-9b1f-3a5c6d7e8f90 --yes',
  ]
  static override args = {
    id: Args.string({ multiple: true, description: 'ids in quarantine, from dlq list' }),
  }
  static override flags = {
    ...quarantineFlags,
    reason: reasonFilter,
    canary: Flags.integer({
      default: 1,
      min: 0,
      max: 1_000,
      helpValue: '<n>',
      description: 'how many go first',
    }),
    'canary-timeout': waitFlag({
      default: 60_000,
      defaultHelp: async () => '60s',
      description: 'how long the canary may take',
    }),
    rate: rateFlag({
      default: 50,
      defaultHelp: async () => '50/s',
      description: 'how fast the rest is sent',
    }),
    wait: Flags.boolean({ description: 'stay until every event has its result' }),
    ...planned,
    ...moderate,
  }

  async run(): Promise<void> {
    const { reason, canary, rate, wait } = this.flags
    const app = await this.openApp()
    const plan = await planRedrive(app, { ...quarantineFilter(this.flags), reason, ids: this.args.id })
    const ids = plan.events.map(({ id }) => id)
    const hash = await this.settlePlan({ redrive: ids, behind: plan.behind }, () => planText(plan))
    if (hash === undefined) return
    const warnings =
      plan.behind.length === 0
        ? []
        : [
            `${plan.behind.length} events wait behind an earlier one of their aggregate: redrive or discard that first`,
          ]
    if (ids.length === 0) {
      const result: Redriven = { sent: 0, redriven: 0, failed: [], pending: 0, kept: 0 }
      this.succeed({ result, warnings, text: () => `${mark('ok')} no event in quarantine matches` })
      return
    }
    this.note(planText(plan))
    await this.confirmModerate(`Sending ${events(ids.length)} again`)
    this.resumeWith = this.#again()
    const { signal } = this
    const progress = throttled((line) => this.note(line))
    const work = () =>
      redriveEvents(app, {
        ids,
        canary,
        ratePerS: rate,
        wait,
        canaryTimeoutMs: this.flags['canary-timeout'],
        run: this.runId,
        by: this.actor,
        signal,
        onProgress: ({ sent, of }) => progress(`${sent} of ${events(of)} sent again`),
      })
    const tenantCount = new Set(plan.events.map(({ tenantId }) => tenantId)).size
    const targets = ids.map((id) => `quarantine:${id}`)
    const result = await this.mutate({ targets, planHash: hash, tenantCount }, work).catch((error) => {
      if (isResumable(error)) error.suggestions.unshift(this.#again())
      throw error
    })
    this.succeed({
      result,
      warnings,
      status: result.failed.length > 0 ? 'findings' : 'ok',
      text: () => resultText(result),
    })
  }

  /** This command again, as it is pasted into a shell; its plan is another one by then. */
  #again(): string {
    const argv = this.argv.filter((arg, i) => !/^--apply(=|$)/.test(arg) && this.argv[i - 1] !== '--apply')
    const words = argv.includes('--yes') || argv.includes('-y') ? argv : [...argv, '--yes']
    return [this.config.bin, this.commandName, ...words.map(quote)].join(' ')
  }
}

const events = (count: number): string => `${count} event${count === 1 ? '' : 's'}`

const planText = (plan: RedrivePlan): string =>
  [`Sending ${events(plan.events.length)} again:`, summarise(plan.events)].join('\n').trimEnd()

function resultText({ sent, redriven, failed, pending, kept }: Redriven): string {
  const lines = [
    `${mark(failed.length > 0 ? 'failed' : 'ok')} ${events(sent)} sent again: ${redriven} handled, ${failed.length} failed, ${pending} under way`,
  ]
  if (kept > 0) lines.push(`  The canary failed; ${events(kept)} not sent.`)
  if (failed[0] !== undefined) lines.push(`  Try: tabib dlq show ${failed[0]}`)
  if (pending > 0) lines.push('  Try: tabib dlq list --state redriving')
  return lines.join('\n')
}

const isResumable = (error: unknown): error is TabibError =>
  error instanceof TabibError && (error.code === 'PARTIAL' || error.code === 'TIMED_OUT')

/** At most one line every two seconds. */
function throttled(print: (line: string) => void): (line: string) => void {
  let last = performance.now()
  return (line) => {
    if (performance.now() - last < 2_000) return
    last = performance.now()
    print(line)
  }
}
