import { Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { keySetAt, openVerifier } from '../../domain/keys/verifier.ts'
import { verifyRoute } from '../../drill/verify-route.ts'
import { purposeFlag } from '../../flags.ts'

export default class DrillVerifier extends TabibCommand<typeof DrillVerifier> {
  static override summary =
    "One replica of a service that verifies tokens, for rehearsals of its keys' rotation."
  static override hidden = true
  static override examples = [
    '<%= config.bin %> <%= command.id %> --purpose join-token --keys http://127.0.0.1:9464 --instance one',
  ]
  static override flags = {
    purpose: purposeFlag({ required: true }),
    keys: Flags.string({ required: true, helpValue: '<url>', description: 'who serves the key set' }),
    instance: Flags.string({ required: true, helpValue: '<name>', description: 'names the replica' }),
    silent: Flags.boolean({ description: 'does not attest what it holds' }),
  }
  static override handlesSignals = true

  async run(): Promise<void> {
    const { purpose, keys, instance, silent } = this.flags
    const app = await this.openApp()
    const stopped = new Promise<void>((resolve) => {
      for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => resolve())
    })
    await using verifier = await openVerifier({
      purpose,
      load: keySetAt(`${keys}/api/v1/keys/${purpose}/jwks.json`, app.fetch()),
      ...(silent ? {} : { attest: { db: app.db, instance } }),
      nats: app.nats,
    })
    const { serve } = await import('../../api/server.ts')
    const nobody = { running: [], scheduled: undefined, drain: async () => [] }
    await using server = await serve(app, nobody, {
      host: '127.0.0.1',
      port: 0,
      verifiers: [verifier],
      routes: (server) => verifyRoute(server, verifier),
    })
    this.note(`listening on ${server.url}: /readyz /api/v1/keys/${purpose}/verify`)
    await stopped
    this.succeed({ result: { instance }, text: () => '' })
  }
}
