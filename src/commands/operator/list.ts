import { TabibCommand } from '../../command.ts'
import { listOperators } from '../../domain/approval/operator.ts'
import { table } from '../../render.ts'

export default class OperatorList extends TabibCommand<typeof OperatorList> {
  static override summary = 'Who may approve severe operations, and with which key.'
  static override examples = ['<%= config.bin %> <%= command.id %>']

  async run(): Promise<void> {
    const operators = await listOperators(await this.openApp())
    this.succeed({
      result: operators,
      text: () =>
        operators.length === 0
          ? 'no operator is registered yet; next: tabib operator add <name>'
          : table(operators, ['name', 'kid', 'addedBy', 'addedAt']),
    })
  }
}
