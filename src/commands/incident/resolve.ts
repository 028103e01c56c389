import { Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { resolveIncident } from '../../domain/incident/resolve.ts'
import { uuidArg } from '../../flags.ts'
import { mark } from '../../render.ts'

export default class IncidentResolve extends TabibCommand<typeof IncidentResolve> {
  static override summary = 'Close an incident; the next report of the same thing opens a new one.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> 01930f6e-7c1a-7d2e-9b1f-3a5c6d7e8f90 --reason "redriven after the fix"',
  ]
  static override args = { id: uuidArg({ required: true, description: "the incident's id" }) }
  static override flags = {
    reason: Flags.string({ helpValue: '<text>', description: 'how it was resolved' }),
  }

  async run(): Promise<void> {
    const { id } = this.args
    const { reason } = this.flags
    const app = await this.openApp()
    const result = await this.mutate({ targets: [`incident:${id}`], incident: id, reason }, () =>
      resolveIncident(app, { id, by: this.actor, resolution: reason }),
    )
    this.succeed({
      result,
      text: () => `${mark('ok')} ${id} resolved by ${result.resolvedBy}: ${result.title}`,
    })
  }
}
