import { Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { listOperators, operatorKeys } from '../../domain/approval/operator.ts'
import { table, toJson } from '../../render.ts'

export default class OperatorList extends TabibCommand<typeof OperatorList> {
  static override summary = 'Who may approve severe operations, and with which key.'
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --jwks > operators.jwks',
  ]
  static override flags = {
    jwks: Flags.boolean({
      description: 'their public keys with their names, for `residency.operators` (docs/residency.md)',
    }),
  }

  async run(): Promise<void> {
    const app = await this.openApp()
    if (this.flags.jwks) {
      const result = await operatorKeys(app)
      this.succeed({ result, text: () => toJson(result) })
      return
    }
    const operators = await listOperators(app)
    this.succeed({
      result: operators,
      text: () =>
        operators.length === 0
          ? 'no operator is registered yet; next: tabib operator add <name>'
          : table(operators, ['name', 'kid', 'addedBy', 'addedAt']),
    })
  }
}
