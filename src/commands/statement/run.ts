import { Flags } from '@oclif/core'
import { parseMonth } from '../../domain/statements/period.ts'
import { findRun, reopenRun } from '../../domain/statements/runs.ts'
import { startRun } from '../../domain/statements/start-run.ts'
import { openStore } from '../../domain/statements/store.ts'
import { findTenant } from '../../domain/tenants/find.ts'
import { mark } from '../../render.ts'
import { StatementRunCommand, workFlags } from '../../statement-run.ts'

export default class StatementRun extends StatementRunCommand<typeof StatementRun> {
  static override summary = "Render a statement for every patient's account of a tenant, for one month."
  static override description =
    `Each account gets a PDF in the statement store and one event. There is one run for a tenant and a month: typed again, this
goes on with it or tells what it came to. Batches are rendered by processes held to a limit of memory, here and on every
host whose statement-run worker is running. An account that fails is tried again, then rendered as a basic PDF, then
listed with its reason; it never stops the others. Exits 1 when an account failed.`
  static override examples = [
    '<%= config.bin %> <%= command.id %> --tenant herat-markaz --period 2026-10',
    '<%= config.bin %> <%= command.id %> --tenant herat-markaz --period 2026-10 --batch-size 50 --concurrency 8',
    '<%= config.bin %> <%= command.id %> --tenant herat-markaz --period 2026-10 --again    # the letterhead has changed',
  ]
  static override flags = {
    tenant: Flags.string({
      required: true,
      helpValue: '<slug>',
      description: 'whose accounts: a slug or an id',
    }),
    period: Flags.string({
      required: true,
      helpValue: '<month>',
      description: "a month that has ended in the tenant's time zone: 2026-10",
    }),
    'batch-size': Flags.integer({
      min: 1,
      max: 10_000,
      default: 100,
      helpValue: '<n>',
      description: 'accounts that one process renders in a row; of a run that is new',
    }),
    again: Flags.boolean({
      description:
        'render a finished run anew; what comes out the same is neither written nor announced again',
    }),
    detach: Flags.boolean({
      description: 'leave the work to statement-run workers',
      exclusive: ['concurrency'],
    }),
    ...workFlags,
  }

  async run(): Promise<void> {
    const { tenant: named, period, 'batch-size': batchSize, again, detach } = this.flags
    parseMonth(period)
    const app = await this.openApp()
    const tenant = await findTenant(app, named)
    // What is wrong with the store is told before anything is on record.
    await openStore(app, tenant.id)
    await this.mutate({ targets: [`tenant:${tenant.slug}`], tenantCount: 1 }, async () => {
      const { id, isNew } = await startRun(app, { tenantId: tenant.id, period, batchSize })
      if (again && !isNew) await reopenRun(app, id, 'all')
      if (!isNew && !again)
        this.note(`run ${id} of ${tenant.slug} and ${period} was begun before: going on with it`)
      if (detach) {
        const run = await findRun(app, id)
        this.succeed({
          result: { ...run, shortfalls: [] },
          text: () => `${mark('ok')} run ${id} is left to the workers`,
        })
        return
      }
      await this.finish(id)
    })
  }
}
