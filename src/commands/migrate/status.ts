import { TabibCommand } from '../../command.ts'
import { migrationStatus } from '../../domain/schema/migrate.ts'
import { mark } from '../../render.ts'

export default class MigrateStatus extends TabibCommand<typeof MigrateStatus> {
  static override summary = 'What database and streams still need for this version.'
  static override description = 'Changes nothing. Exits 1 when something is missing.'
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --json',
  ]

  async run(): Promise<void> {
    const result = await migrationStatus(await this.openApp())
    const missing = [
      ...result.pending.map((name) => `migration ${name}`),
      ...result.streams.filter(({ present }) => !present).map(({ name }) => `stream ${name}`),
    ]
    this.succeed({
      result,
      status: missing.length > 0 ? 'findings' : 'ok',
      text: () => {
        if (missing.length === 0) {
          return `${mark('ok')} ${result.applied.length} migrations and ${result.streams.length} streams in place`
        }
        return [
          ...missing.map((one) => `${mark('failed')} ${one} is missing`),
          '  Try: tabib migrate up',
        ].join('\n')
      },
    })
  }
}
