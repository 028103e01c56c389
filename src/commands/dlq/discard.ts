import { Args } from '@oclif/core'
import { planned, severe, TabibCommand } from '../../command.ts'
import { discardEvents } from '../../domain/dlq/discard.ts'
import { planEvents, summarise } from '../../domain/dlq/plan.ts'
import { TabibError } from '../../errors.ts'
import { quarantineFilter, quarantineFlags } from '../../quarantine-flags.ts'
import { mark } from '../../render.ts'

export default class DlqDiscard extends TabibCommand<typeof DlqDiscard> {
  static override summary = 'Give events in quarantine up for good: they never take effect.'
  static override description =
    'Confirmed with the id of the one event, or with their number as in "12 events". The events stay on record.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> 01930f6e-7c1a-7d2e-9b1f-3a5c6d7e8f90 --dry-run',
    '<%= config.bin %> <%= command.id %> --fingerprint 3f9a0c21d4e8b765 --confirm "12 events" --reason "test data"',
  ]
  static override args = {
    id: Args.string({ multiple: true, description: 'ids in quarantine, from dlq list' }),
  }
  static override flags = { ...quarantineFlags, ...planned, ...severe }

  async run(): Promise<void> {
    const ids = this.args.id
    const filter = { ...quarantineFilter(this.flags), ids }
    if (Object.values(filter).every((value) => value === undefined)) {
      throw new TabibError('USAGE', 'say which events: ids, or a filter', {
        suggestions: ['tabib dlq list --group'],
      })
    }
    const app = await this.openApp()
    const events = await planEvents(app, filter, ['open', 'held', 'redriving'])
    const plan = { discard: events.map(({ id }) => id) }
    const count = `${events.length} event${events.length === 1 ? '' : 's'}`
    const hash = await this.settlePlan(plan, () => `Discarding ${count}:\n${summarise(events)}`)
    if (hash === undefined) return
    if (events.length === 0) {
      this.succeed({ result: { discarded: 0 }, text: () => `${mark('ok')} no event in quarantine matches` })
      return
    }
    this.note(summarise(events))
    const target = events.length === 1 ? events[0]!.id : count
    const { reason } = await this.confirmSevere(target, `Discarding ${count}`)
    const result = await this.mutateAlone(
      'quarantine',
      {
        targets: plan.discard.map((id) => `quarantine:${id}`),
        planHash: hash,
        reason,
        tenantCount: new Set(events.map(({ tenantId }) => tenantId)).size,
      },
      () => discardEvents(app, { ids: plan.discard, by: this.actor, reason }),
    )
    this.succeed({ result, text: () => `${mark('ok')} ${result.discarded} of ${count} discarded` })
  }
}
