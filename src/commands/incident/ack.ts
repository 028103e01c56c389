import { Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { ackIncident } from '../../domain/incident/ack.ts'
import { uuidArg } from '../../flags.ts'
import { mark } from '../../render.ts'

export default class IncidentAck extends TabibCommand<typeof IncidentAck> {
  static override summary = 'Take an incident on: nobody is paged for it any more.'
  static override examples = ['<%= config.bin %> <%= command.id %> 01930f6e-7c1a-7d2e-9b1f-3a5c6d7e8f90']
  static override args = { id: uuidArg({ required: true, description: "the incident's id" }) }
  static override flags = {
    reason: Flags.string({ helpValue: '<text>', description: 'why, for the audit trail' }),
  }

  async run(): Promise<void> {
    const { id } = this.args
    const app = await this.openApp()
    const result = await this.mutate(
      { targets: [`incident:${id}`], incident: id, reason: this.flags.reason },
      () => ackIncident(app, { id, by: this.actor }),
    )
    this.succeed({
      result,
      text: () => `${mark('ok')} ${id} acknowledged by ${result.ackedBy}: ${result.title}`,
    })
  }
}
