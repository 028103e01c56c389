import { Args } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { TabibError } from '../../errors.ts'
import { table } from '../../render.ts'

export default class IsolationExposure extends TabibCommand<typeof IsolationExposure> {
  static override summary = 'What was read from tables, by statement and role, while they were open.'
  static override description =
    `From pg_stat_statements, or from the server's table statistics where it is missing. Statements come without their values.
Without tables: those whose row-level security is off now. Changes nothing.`
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> billing.charge virtual_care.patient --json',
  ]
  static override args = {
    tables: Args.string({ multiple: true, description: 'tables, as schema.table' }),
  }

  async run(): Promise<void> {
    const [{ exposureOf }, { unprotectedTables }] = await Promise.all([
      import('../../domain/isolation/exposure.ts'),
      import('../../domain/isolation/unprotected.ts'),
    ])
    const app = await this.openApp('owner')
    const tables = this.args.tables ?? (await unprotectedTables(app))
    const wrong = tables.find((name) => !/^\w+\.\w+$/.test(name))
    if (wrong !== undefined) throw new TabibError('USAGE', `"${wrong}" is no table; write schema.table`)
    const exposure = await exposureOf(app, { tables })
    const since = exposure.since?.toISOString() ?? 'the server was made'
    this.succeed({
      result: { tables, ...exposure },
      text: () =>
        exposure.reads.length === 0
          ? `nothing was read from ${tables.join(', ') || 'any table: row-level security is on everywhere'}`
          : `${table(exposure.reads, ['table', 'role', 'calls', 'rows', 'statement'])}\n\n${exposure.source}, since ${since}`,
    })
  }
}
