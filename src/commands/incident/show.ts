import { Args } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { showIncident } from '../../domain/incident/list.ts'
import { details } from '../../render.ts'

export default class IncidentShow extends TabibCommand<typeof IncidentShow> {
  static override summary = 'One incident with its evidence, pages and runbook.'
  static override examples = ['<%= config.bin %> <%= command.id %> 01930f6e-7c1a-7d2e-9b1f-3a5c6d7e8f90']
  static override args = { id: Args.string({ required: true, description: "the incident's id" }) }

  async run(): Promise<void> {
    const result = await showIncident(await this.openApp(), this.args.id)
    this.succeed({ result, text: () => details({ ...result }) })
  }
}
