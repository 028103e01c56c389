import { Args } from '@oclif/core'
import { planned, severe, TabibCommand } from '../../command.ts'
import { planRevocation, type RevocationPlan, revokeKey } from '../../domain/keys/revoke.ts'
import { details, mark } from '../../render.ts'

export default class KeysRevoke extends TabibCommand<typeof KeysRevoke> {
  static override summary =
    'A key has leaked: refuse everything that it signed, everywhere, and sign with another.'
  static override description =
    'Verifiers hear of it over NATS within a second, and without NATS at their next load. Nobody waits for caches: for ' +
    'keys that may have leaked and whose tokens should stay good, use `keys rotate --taint`.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> <kid> --dry-run',
    '<%= config.bin %> <%= command.id %> <kid> --confirm <kid> --reason "found in a public repository"',
  ]
  static override args = {
    kid: Args.string({ required: true, description: 'the key, as keys list names it' }),
  }
  static override flags = { ...planned, ...severe }

  async run(): Promise<void> {
    const { kid } = this.args
    const app = await this.openApp()
    const plan = await planRevocation(app, { kid })
    const hash = await this.settlePlan(plan, () => planText(plan))
    if (hash === undefined) return
    this.note(planText(plan))
    const { reason } = await this.confirmSevere(kid, `Revoking a key of ${plan.purpose}`)
    const target = `keys:${plan.purpose}`
    const result = await this.mutateAlone(
      target,
      { targets: [target, `key:${kid}`], planHash: hash, reason },
      () => revokeKey(app, { kid, reason, by: this.actor, runId: this.runId }),
    )
    this.succeed({
      result,
      text: () =>
        `${mark('ok')} ${kid} ${result.revoked ? 'is revoked' : 'was revoked before'}; ${result.successor ?? 'no key'} signs`,
      warnings: [
        ...(result.successor === null
          ? ['no key signs: none could be made; the key-rotation worker goes on trying']
          : []),
        ...(result.announced ? [] : ['NATS did not hear of it; verifiers find out at their next load']),
      ],
    })
  }
}

const planText = ({ kid, purpose, phase, successor }: RevocationPlan): string =>
  details({
    refused: `everything that ${kid} signed`,
    purpose,
    phase,
    'signs afterwards': successor === 'new' ? 'a new key' : successor,
  })
