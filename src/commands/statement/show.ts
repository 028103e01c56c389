import { Args, Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { findRun, listRuns, shortfallsOf } from '../../domain/statements/runs.ts'
import { findTenant } from '../../domain/tenants/find.ts'
import { table } from '../../render.ts'
import { runText } from '../../statement-run.ts'

export default class StatementShow extends TabibCommand<typeof StatementShow> {
  static override summary =
    'Statement runs: how far each is, and which accounts failed or got a basic PDF, with the reason.'
  static override description =
    'Without RUN the latest runs. With one: its counts and every account that failed, is tried again, or was rendered basic. ' +
    'Exits 1 when an account of the run failed.'
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --tenant herat-markaz',
    '<%= config.bin %> <%= command.id %> 019a8f2e-7c00-7000-8000-000000000001',
  ]
  static override args = { run: Args.string({ description: "a run's id" }) }
  static override flags = {
    tenant: Flags.string({ helpValue: '<slug>', description: 'only runs of this tenant' }),
    open: Flags.boolean({ description: 'only runs that have not finished' }),
    limit: Flags.integer({
      min: 1,
      max: 10_000,
      default: 50,
      helpValue: '<n>',
      description: 'at most so many',
    }),
  }

  async run(): Promise<void> {
    const { tenant, open, limit } = this.flags
    const app = await this.openApp()
    if (this.args.run === undefined) {
      const tenantId = tenant === undefined ? undefined : (await findTenant(app, tenant)).id
      const runs = await listRuns(app, { tenantId, open, limit })
      this.succeed({
        result: runs,
        text: () =>
          runs.length === 0
            ? 'no statement run'
            : table(runs, [
                'id',
                'tenant',
                'period',
                'state',
                'accounts',
                'rendered',
                'basic',
                'failed',
                'pending',
              ]),
      })
      return
    }
    const run = await findRun(app, this.args.run)
    const shortfalls = await shortfallsOf(app, run.id, limit)
    this.succeed({
      result: { ...run, shortfalls },
      status: run.failed > 0 ? 'findings' : 'ok',
      text: () => runText(run, shortfalls),
    })
  }
}
