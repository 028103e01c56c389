import { Args } from '@oclif/core'
import { severe, TabibCommand } from '../../command.ts'
import { planHash } from '../../domain/audit/canonical-json.ts'
import { findAccount } from '../../domain/ledger/account.ts'
import { freezeOf, unfreezeAccount } from '../../domain/ledger/freeze.ts'
import { callWitness } from '../../domain/ledger/witness.ts'
import { TabibError } from '../../errors.ts'
import { mark } from '../../render.ts'

export default class LedgerUnfreeze extends TabibCommand<typeof LedgerUnfreeze> {
  static override summary = 'Let posts to a frozen ledger account through again, once it verifies.'
  static override description =
    'Verifies the account anew and refuses while anything is wrong with it. Resolves the incident that froze it.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> 0193e3a1-5f0e-7c11-9a52-6f1a2b3c4d5e --confirm 0193e3a1-5f0e-7c11-9a52-6f1a2b3c4d5e --reason "reconciled"',
  ]
  static override args = {
    account: Args.string({ required: true, description: "the account's id" }),
  }
  static override flags = { ...severe }

  async run(): Promise<void> {
    const app = await this.openApp()
    const account = await findAccount(app, this.args.account)
    const freeze = await freezeOf(app.db, account)
    if (!freeze) throw new TabibError('NOT_NEEDED', `account ${account.id} is not frozen`)
    const witness = await callWitness(app, account, app.config.ledger.seals)
    const { reason } = await this.confirmSevere(account.id, `Unfreezing ledger account ${account.id}`)
    const target = `account:${account.id}`
    const result = await this.mutateAlone(
      target,
      {
        targets: [target],
        planHash: planHash({ unfreeze: account.id, incidentId: freeze.incidentId }),
        reason,
        incident: freeze.incidentId,
        failureMode: 'billing/FM-07',
        tenantCount: 1,
      },
      () => unfreezeAccount(app, account, witness, { by: this.actor, reason }),
    )
    this.succeed({
      result: { accountId: account.id, ...result },
      text: () => `${mark('ok')} ${account.id} verifies and takes posts again; its incident is resolved`,
    })
  }
}
