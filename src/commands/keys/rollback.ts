import { moderate, planned, TabibCommand } from '../../command.ts'
import { planRollback, type RollbackPlan, rollbackRotation } from '../../domain/keys/rollback.ts'
import { purposeFlag } from '../../flags.ts'
import { details, mark } from '../../render.ts'

export default class KeysRollback extends TabibCommand<typeof KeysRollback> {
  static override summary = 'Undo a rotation: the former key signs, and what the new one signed stays good.'
  static override description =
    'From any phase until the former key is retired. The new key never signs again; a rotation makes another.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> --purpose join-token --dry-run',
    '<%= config.bin %> <%= command.id %> --purpose join-token --yes',
  ]
  static override flags = { purpose: purposeFlag({ required: true }), ...planned, ...moderate }

  async run(): Promise<void> {
    const { purpose } = this.flags
    const app = await this.openApp()
    const plan = await planRollback(app, { purpose })
    const hash = await this.settlePlan(plan, () => planText(plan))
    if (hash === undefined) return
    this.note(planText(plan))
    await this.confirmModerate(`Rolling the keys of ${purpose} back`)
    await this.mutate({ targets: [`keys:${purpose}`], planHash: hash }, () =>
      rollbackRotation(app, { plan, by: this.actor }),
    )
    this.succeed({ result: plan, text: () => `${mark('ok')} ${purpose}: ${plan.to} signs` })
  }
}

const planText = ({ kind, from, to }: RollbackPlan): string =>
  details({
    'signs afterwards': to,
    'never signs again': from,
    'its tokens': kind === 'return' ? 'stay good until they expire' : 'there are none: it never signed',
  })
