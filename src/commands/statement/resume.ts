import { Args, Flags } from '@oclif/core'
import { findRun, listRuns, reopenRun } from '../../domain/statements/runs.ts'
import { TabibError } from '../../errors.ts'
import { mark } from '../../render.ts'
import { StatementRunCommand, workFlags } from '../../statement-run.ts'

export default class StatementResume extends StatementRunCommand<typeof StatementResume> {
  static override summary =
    'Go on with a statement run that was interrupted, until every account has its outcome.'
  static override description =
    'Whatever was killed: what is settled stays, and no account gets two statements. Batches in the hands of a process that ' +
    'is gone are taken over within 15 seconds. Exits 1 when an account failed.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> 019a8f2e-7c00-7000-8000-000000000001',
    '<%= config.bin %> <%= command.id %> 019a8f2e-7c00-7000-8000-000000000001 --retry-failed',
    '<%= config.bin %> <%= command.id %> --all',
  ]
  static override args = { run: Args.string({ description: "a run's id" }) }
  static override flags = {
    all: Flags.boolean({ description: 'every run that has not finished, the oldest first' }),
    'retry-failed': Flags.boolean({
      description: 'try the accounts that failed once more',
      exclusive: ['all'],
    }),
    ...workFlags,
  }

  async run(): Promise<void> {
    const { run: id } = this.args
    const { all, 'retry-failed': retryFailed } = this.flags
    if ((id === undefined) === !all) {
      throw new TabibError('USAGE', 'name one run, or give --all', {
        suggestions: ['tabib statement show --open'],
      })
    }
    const app = await this.openApp()
    if (id === undefined) {
      await this.#resumeAll()
      return
    }
    const run = await findRun(app, id)
    await this.mutate({ targets: [`statement-run:${run.id}`], tenantCount: 1 }, async () => {
      if (retryFailed) await reopenRun(app, run.id, 'failed')
      await this.finish(run.id)
    })
  }

  async #resumeAll(): Promise<void> {
    const app = await this.openApp()
    const open = (await listRuns(app, { open: true, limit: 10_000 })).reverse()
    if (open.length === 0) {
      this.succeed({ result: [], text: () => `${mark('ok')} every run has finished` })
      return
    }
    await this.mutate(
      { targets: open.map(({ id }) => `statement-run:${id}`), tenantCount: open.length },
      async () => {
        for (const { id } of open) await this.work(id)
        const runs = await Promise.all(open.map(({ id }) => findRun(app, id)))
        this.succeed({
          result: runs,
          status: runs.some(({ failed }) => failed > 0) ? 'findings' : 'ok',
          text: () =>
            runs
              .map(({ id, tenant, accounts }) => `${mark('ok')} ${id} of ${tenant}: ${accounts} accounts`)
              .join('\n'),
        })
      },
    )
  }
}
