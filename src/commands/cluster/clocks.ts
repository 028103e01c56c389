import { Flags } from '@oclif/core'
import { moderate, planned, TabibCommand } from '../../command.ts'
import { allClocks, type Clock, readNtp, SKEW_LIMIT_S, skewOf } from '../../domain/cluster/clocks.ts'
import { judgeClocks } from '../../domain/cluster/judge-clocks.ts'
import { applyStep, planStep, type Stepped } from '../../domain/cluster/step-clocks.ts'
import { fails } from '../../findings-report.ts'
import { mark, table } from '../../render.ts'

export default class ClusterClocks extends TabibCommand<typeof ClusterClocks> {
  static override summary =
    'Clocks of Postgres, Redis, NATS and every host with a process of tabib, against this one; who keeps none.'
  static override description =
    'Differences are corrected for the round trip, and what it leaves open is said. Exits 1 when two clocks are more than ' +
    '500 ms apart, or a host follows no NTP server.'
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --step --dry-run',
  ]
  static override flags = {
    step: Flags.boolean({ description: 'set the clocks that are wrong at once, by the command clocks.step' }),
    ...planned,
    ...moderate,
  }

  async run(): Promise<void> {
    const app = await this.openApp()
    if (this.flags.step) return this.#step()
    const [clocks, ntp] = await Promise.all([allClocks(app), readNtp()])
    const { seconds } = skewOf(clocks)
    const findings = judgeClocks(clocks, { ntp, step: app.config.clockStep })
    this.succeed({
      result: { skewS: seconds ?? null, ntp, clocks: clocks.map(shown), findings },
      status: findings.some(fails) ? 'findings' : 'ok',
      text: () =>
        [
          table(clocks.map(row), ['clock', 'aheadMs', 'withinMs', 'ntp']),
          `${mark(seconds !== undefined && seconds <= SKEW_LIMIT_S ? 'ok' : 'failed')} ${skewText(seconds)}; this host: ${ntp.detail}`,
          ...findings.map(
            ({ severity, object, message, fix }) =>
              `${mark(severity === 'error' ? 'failed' : 'warning')} ${object}: ${message}${fix === null ? '' : `\n    ${fix}`}`,
          ),
        ].join('\n'),
    })
  }

  async #step(): Promise<void> {
    const app = await this.openApp()
    const plan = await planStep(app)
    const text = () =>
      plan.hosts.map(({ host, argv }) => `set the clock of ${host}: ${argv.join(' ')}`).join('\n')
    const planHash = await this.settlePlan(plan, text)
    if (planHash === undefined) return
    const hosts = plan.hosts.map(({ host }) => host)
    await this.confirmModerate(`set the clock of ${hosts.join(', ')}`)
    const details = {
      targets: hosts.map((host) => `clock:${host}`),
      planHash,
      failureMode: 'communication/C16',
    }
    const stepped = await this.mutate(details, () => applyStep(app, plan))
    const right = stepped.skewS !== null && stepped.skewS <= SKEW_LIMIT_S
    this.succeed({
      result: { plan, ...stepped },
      status: right ? 'ok' : 'findings',
      text: () => steppedText(stepped, right),
    })
  }
}

const skewText = (seconds: number | undefined): string =>
  seconds === undefined ? 'no other clock answers' : `clocks are ${Math.round(seconds * 1_000)} ms apart`

const shown = ({ offset, error, ntp, ...clock }: Clock) => ({
  ...clock,
  offsetMs: offset?.offsetMs ?? null,
  errorMs: offset?.errorMs ?? null,
  error: error ?? null,
  ntp: ntp ?? null,
})

const row = ({ name, offset, error, ntp }: Clock) => ({
  clock: name,
  aheadMs: offset ? offset.offsetMs.toFixed(1) : undefined,
  withinMs: offset ? `± ${offset.errorMs.toFixed(1)}` : error,
  ntp,
})

const steppedText = ({ hosts, skewS }: Stepped, right: boolean): string =>
  [
    ...hosts.map(({ host, error }) =>
      error === null ? `${mark('ok')} ${host}: was set` : `${mark('failed')} ${host}: ${error}`,
    ),
    `${mark(right ? 'ok' : 'failed')} ${skewText(skewS ?? undefined)}`,
  ].join('\n')
