import { Flags } from '@oclif/core'
import { planned, severe, TabibCommand } from '../../command.ts'
import { applyReset, planReset, type ResetPlan } from '../../domain/outbox/reset.ts'
import { timeFlag } from '../../flags.ts'
import { details, mark } from '../../render.ts'
import { SERVICES } from '../../service.ts'

export default class OutboxReset extends TabibCommand<typeof OutboxReset> {
  static override summary = 'Take up an outbox again that was restored from a dump into another cluster.'
  static override description =
    'Transaction ids do not survive a dump and restore, so the relay refuses a restored outbox. The reset counts ' +
    'everything before --since as published; the relay looks for the rest in the stream and publishes what it lacks.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> --service billing --since 2026-11-22T03:00Z --dry-run',
    '<%= config.bin %> <%= command.id %> --service billing --since 6h --confirm billing --reason "restored from the 3 a.m. dump"',
  ]
  static override flags = {
    service: Flags.option({ options: SERVICES, required: true })({ description: 'whose outbox' }),
    since: timeFlag({
      required: true,
      description: 'look for what was created since in the stream: the time of the dump, or earlier',
    }),
    ...planned,
    ...severe,
  }

  async run(): Promise<void> {
    const { service, since } = this.flags
    const app = await this.openApp()
    const plan = await planReset(app, { service, since })
    const hash = await this.settlePlan(plan, () => planText(plan))
    if (hash === undefined) return
    const { reason } = await this.confirmSevere(service, `reset the ${service} outbox`)
    const target = `outbox:${service}`
    const result = await this.mutateAlone(target, { targets: [target], planHash: hash, reason }, () =>
      applyReset(app, { service, since, runId: this.runId }),
    )
    this.succeed({
      result: { plan, ...result },
      text: () =>
        `${mark('ok')} ${service}: ${result.republish} events will be looked for in the stream and published where it lacks them; the relay may start`,
    })
  }
}

const planText = (plan: ResetPlan): string =>
  details({
    service: plan.service,
    'cursor of': plan.savedIn,
    'database now': plan.here,
    'count as published': plan.events - plan.republish,
    'publish if missing': `${plan.republish}, created since ${plan.since}`,
  })
