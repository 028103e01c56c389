import { TabibCommand } from '../../command.ts'
import { publishedKeys } from '../../domain/keys/key-set.ts'
import { TabibError } from '../../errors.ts'
import { purposeFlag } from '../../flags.ts'
import { toJson } from '../../render.ts'

export default class KeysJwks extends TabibCommand<typeof KeysJwks> {
  static override summary = 'The key set that verifiers fetch (RFC 7517), with the denylist.'
  static override examples = ['<%= config.bin %> <%= command.id %> --purpose join-token']
  static override flags = { purpose: purposeFlag({ required: true }) }

  async run(): Promise<void> {
    const { purpose } = this.flags
    const result = await publishedKeys(await this.openApp(), { purpose })
    if (result.keys.length === 0 && result.revoked.length === 0) {
      throw new TabibError('NOT_FOUND', `no key of "${purpose}" was ever published`, {
        suggestions: ['tabib keys list'],
      })
    }
    this.succeed({ result, text: () => toJson(result) })
  }
}
