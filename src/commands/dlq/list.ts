import { Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import {
  groupQuarantine,
  listQuarantine,
  QUARANTINE_STATES,
  type QuarantineState,
} from '../../domain/dlq/list.ts'
import { quarantineFilter, quarantineFlags, reasonFilter } from '../../quarantine-flags.ts'
import { mark, table } from '../../render.ts'

export default class DlqList extends TabibCommand<typeof DlqList> {
  static override summary = 'Events in quarantine, oldest first; those not settled unless asked otherwise.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> --service billing --group',
    '<%= config.bin %> <%= command.id %> --type session.ended --older-than 1h --json',
  ]
  static override flags = {
    ...quarantineFlags,
    reason: reasonFilter,
    state: Flags.option({
      options: ['unsettled', 'all', ...QUARANTINE_STATES] as const,
      default: 'unsettled' as const,
    })({
      description: 'only events in this state; unsettled is open, held and redriving',
    }),
    group: Flags.boolean({ description: 'one line for all events that failed alike' }),
    limit: Flags.integer({
      default: 100,
      min: 1,
      max: 100_000,
      helpValue: '<n>',
      description: 'at most this many',
    }),
  }

  async run(): Promise<void> {
    const { state, group, limit } = this.flags
    const filter = { ...quarantineFilter(this.flags), reason: this.flags.reason, states: statesOf(state) }
    const app = await this.openApp()
    if (group) {
      const result = await groupQuarantine(app, filter, { limit })
      this.succeed({
        result,
        text: () =>
          textOf(result, [
            'fingerprint',
            'service',
            'origin',
            'consumer',
            'reason',
            'types',
            'events',
            'tenants',
            'oldest',
          ]),
      })
      return
    }
    const result = await listQuarantine(app, filter, { limit })
    this.succeed({
      result,
      text: () =>
        textOf(result, [
          'id',
          'state',
          'service',
          'origin',
          'consumer',
          'type',
          'reason',
          'attempts',
          'quarantinedAt',
          'fingerprint',
        ]),
    })
  }
}

function statesOf(state: QuarantineState | 'unsettled' | 'all'): QuarantineState[] | undefined {
  if (state === 'unsettled') return ['open', 'held', 'redriving']
  return state === 'all' ? undefined : [state]
}

function textOf<R extends object>(rows: R[], columns: (keyof R & string)[]): string {
  return rows.length === 0 ? `${mark('ok')} nothing in quarantine` : table(rows, columns)
}
