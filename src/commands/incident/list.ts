import { Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { INCIDENT_STATES, listIncidents } from '../../domain/incident/list.ts'
import { mark, table } from '../../render.ts'
import { SERVICES } from '../../service.ts'

export default class IncidentList extends TabibCommand<typeof IncidentList> {
  static override summary = 'Incidents, last opened first; those not resolved unless asked otherwise.'
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --service billing --state all --json',
  ]
  static override flags = {
    state: Flags.option({ options: INCIDENT_STATES, default: 'unresolved' as const })({
      description: 'only incidents in this state; unresolved is open and acked',
    }),
    service: Flags.option({ options: SERVICES })({ description: 'only incidents of this service' }),
    mode: Flags.string({ helpValue: '<mode>', description: 'only incidents of this failure mode' }),
    limit: Flags.integer({
      default: 100,
      min: 1,
      max: 10_000,
      helpValue: '<n>',
      description: 'at most this many',
    }),
  }

  async run(): Promise<void> {
    const { mode: named, ...filter } = this.flags
    // The catalog is loaded for whoever names a mode of it.
    const mode = named && (await import('../../catalog/index.ts')).findMode(named).id
    const result = await listIncidents(await this.openApp(), { ...filter, mode })
    this.succeed({
      result,
      text: () => {
        if (result.length === 0) return `${mark('ok')} no incidents`
        return table(result, [
          'id',
          'state',
          'severity',
          'mode',
          'occurrences',
          'openedAt',
          'pagedAt',
          'title',
        ])
      },
    })
  }
}
