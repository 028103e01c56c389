import { Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { listKeys } from '../../domain/keys/phase.ts'
import { purposeFlag } from '../../flags.ts'
import { table } from '../../render.ts'

export default class KeysList extends TabibCommand<typeof KeysList> {
  static override summary = 'Signing keys, each with its phase.'
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --purpose join-token --ended',
  ]
  static override flags = {
    purpose: purposeFlag(),
    ended: Flags.boolean({ description: 'retired and revoked keys too' }),
  }

  async run(): Promise<void> {
    const app = await this.openApp()
    const keys = (await listKeys(app, this.flags)).map(
      ({ purpose, kid, algorithm, store, phase, since, barred, publicJwk }) => ({
        purpose,
        kid,
        algorithm,
        store,
        phase,
        since,
        barred,
        publicJwk,
      }),
    )
    this.succeed({
      result: keys,
      text: () =>
        keys.length === 0
          ? 'there is no signing key yet; next: tabib keys rotate --purpose <name>'
          : table(keys, ['purpose', 'kid', 'algorithm', 'store', 'phase', 'since', 'barred']),
    })
  }
}
