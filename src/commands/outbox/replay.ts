import { Flags } from '@oclif/core'
import { moderate, planned, TabibCommand } from '../../command.ts'
import { applyReplay, planReplay, type ReplayPlan } from '../../domain/outbox/replay.ts'
import { timeFlag, uuidFlag } from '../../flags.ts'
import { details, mark } from '../../render.ts'
import { SERVICES } from '../../service.ts'

export default class OutboxReplay extends TabibCommand<typeof OutboxReplay> {
  static override summary =
    'Publish again what was published and lost on the other side; inboxes absorb what was not lost.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> --service billing --since 2h --dry-run',
    '<%= config.bin %> <%= command.id %> --service billing --since 2026-11-22T03:00Z --until 2026-11-22T03:10Z --yes',
    '<%= config.bin %> <%= command.id %> --service billing --id 01930f6e-7c1a-7d2e-9b1f-3a5c6d7e8f90 --yes',
  ]
  static override flags = {
    service: Flags.option({ options: SERVICES, required: true })({ description: 'whose outbox' }),
    since: timeFlag({ description: 'created at or after this time, or this long ago' }),
    until: timeFlag({ description: 'created before this time, or this long ago' }),
    type: Flags.string({ helpValue: '<type>', description: 'only events of this type' }),
    tenant: uuidFlag({ description: 'only events of this tenant' }),
    id: uuidFlag({
      multiple: true,
      multipleNonGreedy: true,
      description: 'only this event',
    }),
    ...planned,
    ...moderate,
  }

  async run(): Promise<void> {
    const { service, since, until, type, tenant, id: ids } = this.flags
    if (!since && !ids) this.error('say which events: --since or --id', { exit: 2 })
    if (since && until && since >= until) {
      this.error(`nothing lies between ${since.toISOString()} and ${until.toISOString()}`, { exit: 2 })
    }
    const filter = { service, since, until, type, tenant, ids }
    const app = await this.openApp()
    const plan = await planReplay(app, filter)
    const hash = await this.settlePlan(plan, () => planText(plan))
    if (hash === undefined) return
    if (plan.events === 0) {
      this.succeed({
        result: { plan, published: 0, unpublishable: [] },
        text: () => `${mark('ok')} no published event matches`,
      })
      return
    }
    await this.confirmModerate(`publish ${plan.events} ${service} events again`)
    const result = await this.mutate({ targets: [`outbox:${service}`], planHash: hash }, () =>
      applyReplay(app, filter, {
        plan,
        planHash: hash,
        onProgress: (published) => this.note(`${published} of ${plan.events} published again`),
      }),
    )
    this.succeed({
      result: { plan, ...result },
      status: result.unpublishable.length > 0 ? 'findings' : 'ok',
      text: () => `${mark('ok')} ${result.published} ${service} events published again`,
    })
  }
}

const planText = (plan: ReplayPlan): string =>
  details({
    service: plan.service,
    events: plan.events,
    types: Object.entries(plan.byType)
      .map(([type, events]) => `${type} ${events}`)
      .join(', '),
    since: plan.filter.since,
    until: plan.filter.until,
  })
