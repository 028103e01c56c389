import { Flags } from '@oclif/core'
import { catalog } from '../../catalog/index.ts'
import { TabibCommand } from '../../command.ts'
import { table } from '../../render.ts'

export default class CatalogList extends TabibCommand<typeof CatalogList> {
  static override summary = 'List every failure mode, built or planned.'
  static override examples = [
    '<%= config.bin %> catalog list',
    '<%= config.bin %> catalog list --service billing --state built --json',
  ]
  static override flags = {
    service: Flags.option({
      options: ['virtual-care', 'billing', 'communication', 'sync', 'tabib'] as const,
      description: 'only modes of this service',
    })(),
    state: Flags.option({
      options: ['built', 'planned'] as const,
      description: 'only modes in this state',
    })(),
  }

  async run(): Promise<void> {
    const { service, state } = this.flags
    const result = catalog
      .filter((mode) => service === undefined || mode.id.startsWith(`${service}/`))
      .filter((mode) => state === undefined || mode.state === state)
      .map(({ id, kind, title, severity, state }) => ({ id, kind, title, severity, state }))
    const built = result.filter((mode) => mode.state === 'built').length
    this.succeed({
      result,
      text: () =>
        `${table(result, ['id', 'state', 'kind', 'severity', 'title'])}\n\n` +
        `${built} built, ${result.length - built} planned`,
    })
  }
}
