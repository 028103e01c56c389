import { moderate, planned, TabibCommand } from '../../command.ts'
import { mark } from '../../render.ts'

export default class IsolationRestore extends TabibCommand<typeof IsolationRestore> {
  static override summary = 'Switch row-level security on again where a migration left it off.'
  static override description =
    `For every table with tenant data that a service can reach; their policies still stand and apply at once. Connects as the
owner of the schemas. What was read meanwhile is what isolation exposure tells.`
  static override examples = [
    '<%= config.bin %> <%= command.id %> --dry-run',
    '<%= config.bin %> <%= command.id %> --yes',
  ]
  static override flags = { ...planned, ...moderate }

  async run(): Promise<void> {
    const { protectTables, unprotectedTables } = await import('../../domain/isolation/unprotected.ts')
    const owner = await this.openApp('owner')
    const tables = await unprotectedTables(owner)
    const text = () =>
      tables.map((table) => `  ${table}: row-level security on, and forced`).join('\n') || '  nothing to do'
    const hash = await this.settlePlan({ tables }, text)
    if (hash === undefined) return
    if (tables.length > 0) {
      this.note(text())
      await this.confirmModerate(`switch row-level security on for ${tables.length} tables`)
      const details = { targets: tables, planHash: hash, failureMode: 'billing/FM-15' }
      await this.mutate(details, () => protectTables(owner, tables))
    }
    this.succeed({
      result: { tables },
      text: () =>
        tables.length === 0
          ? `${mark('ok')} row-level security is on everywhere`
          : `${mark('ok')} row-level security is on again for ${tables.join(', ')}`,
    })
  }
}
