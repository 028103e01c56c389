import { Args, Flags } from '@oclif/core'
import { moderate, TabibCommand } from '../../command.ts'
import { findAccount } from '../../domain/ledger/account.ts'
import { freezeAccount } from '../../domain/ledger/freeze.ts'
import { mark } from '../../render.ts'

export default class LedgerFreeze extends TabibCommand<typeof LedgerFreeze> {
  static override summary = 'Stop every post to one ledger account, and page.'
  static override description =
    'All other accounts go on. The ledger-integrity worker does the same to an account that does not verify.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> 0193e3a1-5f0e-7c11-9a52-6f1a2b3c4d5e --yes --reason "the gateway reports other figures"',
  ]
  static override args = {
    account: Args.string({ required: true, description: "the account's id" }),
  }
  static override flags = {
    reason: Flags.string({
      required: true,
      helpValue: '<text>',
      description: 'why; whoever posts is told, so no personal data',
    }),
    ...moderate,
  }

  async run(): Promise<void> {
    const { reason } = this.flags
    const app = await this.openApp()
    const account = await findAccount(app, this.args.account)
    await this.confirmModerate(`Freezing ledger account ${account.id}`)
    const result = await this.mutate(
      { targets: [`account:${account.id}`], reason, failureMode: 'billing/FM-07', tenantCount: 1 },
      () => freezeAccount(app, account, { reason }),
    )
    this.succeed({
      result: { accountId: account.id, ...result },
      text: () =>
        `${mark('ok')} ${account.id} ${result.frozen ? 'is frozen' : 'was frozen before'}; incident ${result.incidentId}`,
    })
  }
}
