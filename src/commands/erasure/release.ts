import { severe, TabibCommand } from '../../command.ts'
import { planHash } from '../../domain/audit/canonical-json.ts'
import { findHold, releaseHold } from '../../domain/erasure/hold.ts'
import { NOT_REMEMBERED, tryToRemember } from '../../domain/erasure/remember.ts'
import { uuidArg } from '../../flags.ts'
import { mark } from '../../render.ts'

export default class ErasureRelease extends TabibCommand<typeof ErasureRelease> {
  static override summary = 'Release a legal hold: what waited for it is erased.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> <hold> --confirm <hold> --reason "the case is closed"',
  ]
  static override args = {
    hold: uuidArg({ required: true, description: 'as erasure list --holds names it' }),
  }
  static override flags = { ...severe }

  async run(): Promise<void> {
    const app = await this.openApp()
    const { hold } = this.args
    const { subject } = await findHold(app, hold)
    const { reason } = await this.confirmSevere(hold, `Releasing the legal hold ${hold} of ${subject}`)
    const target = `erasure-hold:${hold}`
    const result = await this.mutateAlone(
      target,
      { targets: [target], planHash: planHash({ hold }), reason },
      () => releaseHold(app, { id: hold, by: this.actor }),
    )
    const remembered = await tryToRemember(app)
    this.succeed({
      result,
      warnings: remembered ? [] : [NOT_REMEMBERED],
      text: () => `${mark('ok')} hold ${hold} is released; the worker sends what waited`,
    })
  }
}
