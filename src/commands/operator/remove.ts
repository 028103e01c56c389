import { Args } from '@oclif/core'
import { planned, severe, TabibCommand } from '../../command.ts'
import { planRemoval, removeOperator } from '../../domain/approval/remove.ts'
import { details, mark } from '../../render.ts'

export default class OperatorRemove extends TabibCommand<typeof OperatorRemove> {
  static override summary =
    'Take an operator out: nothing that their key signs, or has signed and is not used yet, counts from now on.'
  static override description =
    'What they approved or ordered before was done, and stays so. The key is never taken again; the name may be, with another ' +
    'key. Refused for the last operator, and for the last two where the context wants approvals: nobody could do anything then.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> maryam@ops --dry-run',
    '<%= config.bin %> <%= command.id %> maryam@ops --confirm maryam@ops --reason "her key was stolen"',
  ]
  static override args = { name: Args.string({ required: true, description: 'as operator list shows it' }) }
  static override flags = { ...planned, ...severe }

  async run(): Promise<void> {
    const { name } = this.args
    const app = await this.openApp()
    const { approvalsRequired, erasure, residency } = app.config
    const least = approvalsRequired ? 2 : 1
    const plan = await planRemoval(app, { name, least })
    const { kid, removedAt } = plan
    if (removedAt !== null) {
      this.succeed({
        result: { ...plan, removed: false },
        text: () => `${mark('ok')} ${name} was removed at ${removedAt.toISOString()}`,
      })
      return
    }
    const hash = await this.settlePlan({ operatorRemoved: name, kid }, () => details({ removed: name, kid }))
    if (hash === undefined) return
    const { reason } = await this.confirmSevere(name, `Removing the operator ${name}`)
    const target = `operator:${name}`
    const result = await this.mutateAlone(target, { targets: [target], planHash: hash, reason }, () =>
      removeOperator(app, { name, kid, least, by: this.actor }),
    )
    this.succeed({
      result: { name, kid, ...result },
      text: () => `${mark('ok')} ${name} is no operator any more; nothing counts that key ${kid} signs`,
      warnings: [
        ...(erasure.authorities.includes(name)
          ? [`erasure.authorities names ${name} still, whoever is registered by that name next`]
          : []),
        ...(residency?.operators === undefined
          ? []
          : [
              `the glass may be broken with this key until tabib operator list --jwks > ${residency.operators}`,
            ]),
      ],
    })
  }
}
