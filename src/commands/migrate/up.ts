import { moderate, planned, TabibCommand } from '../../command.ts'
import { migrateUp, migrationStatus, missingRoles } from '../../domain/schema/migrate.ts'
import { mark } from '../../render.ts'

export default class MigrateUp extends TabibCommand<typeof MigrateUp> {
  static override summary = 'Bring database and streams to what this version needs.'
  static override description =
    `Works as the owner of the schemas (TABIB_OWNER_DATABASE_URL, or ownerUrl of the context).
Runs that start at the same time wait for each other; a second run changes nothing.`
  static override examples = [
    '<%= config.bin %> <%= command.id %> --dry-run',
    '<%= config.bin %> <%= command.id %> --yes',
  ]
  static override flags = { ...moderate, ...planned }

  async run(): Promise<void> {
    const config = await this.loadConfig()
    const owner = await this.openApp('owner')
    const { applied, pending, streams } = await migrationStatus(owner)
    const missing = streams.filter(({ present }) => !present).map(({ name }) => name)
    const plan = { migrations: pending, streams: missing }
    const hash = await this.settlePlan(plan, () => planText(plan))
    if (hash === undefined) return
    if (pending.length > 0) await this.confirmModerate(`${planText(plan)}`)
    const work = () =>
      migrateUp(owner, { replicas: config.outbox.replicas, dedupeWindowMs: config.outbox.dedupeWindowMs })
    // Before the first migration there is no trail to write to.
    const result =
      applied.length === 0
        ? await work()
        : await this.mutate({ targets: [...pending, ...missing], planHash: hash }, work)
    this.succeed({
      result,
      warnings: await missingRoles(await this.openApp()),
      text: () => {
        const { migrations, streams } = result
        if (migrations.length + streams.length === 0) return `${mark('ok')} nothing to do`
        return `${mark('ok')} ${migrations.length} migrations applied, ${streams.length} streams made or updated`
      },
    })
  }
}

function planText({ migrations, streams }: { migrations: string[]; streams: string[] }): string {
  if (migrations.length + streams.length === 0) return 'Nothing is missing'
  const parts = [
    ...(migrations.length > 0 ? [`apply ${migrations.join(', ')}`] : []),
    ...(streams.length > 0 ? [`make the streams ${streams.join(', ')}`] : []),
  ]
  return `Migrating would ${parts.join(' and ')}`
}
