import { writeFile } from 'node:fs/promises'
import { Args, Flags } from '@oclif/core'
import { durationFlag, TabibCommand } from '../../command.ts'
import { createApproval, LONGEST_LIFETIME_S } from '../../domain/approval/create.ts'
import { TabibError } from '../../errors.ts'
import { mark } from '../../render.ts'

const DEFAULT_MS = 3_600_000

export default class ApprovalCreate extends TabibCommand<typeof ApprovalCreate> {
  static override summary =
    "Approve another operator's plan: a signed consent that their command accepts once."
  static override description =
    'Signed by the key that is registered for you (TABIB_ACTOR) and lies in your own key store (TABIB_OPERATOR_KEY_STORE, or TABIB_KEY_STORE).'
  static override examples = [
    '<%= config.bin %> <%= command.id %> 5f0c…e1 --reason "read the plan, agreed in the incident call" --file approval.jws',
  ]
  static override args = {
    planHash: Args.string({ required: true, description: 'as --dry-run printed it' }),
  }
  static override flags = {
    reason: Flags.string({ required: true, helpValue: '<text>', description: 'why, for the audit trail' }),
    lifetime: durationFlag({ description: 'how long it may be used: an hour when not given, a day at most' }),
    file: Flags.string({ helpValue: '<file>', description: 'write it there instead of printing it' }),
  }

  async run(): Promise<void> {
    const { planHash } = this.args
    if (!/^[0-9a-f]{64}$/.test(planHash)) {
      throw new TabibError(
        'USAGE',
        `"${planHash}" is no plan hash: 64 hexadecimal digits, printed by --dry-run`,
      )
    }
    const { lifetime: lifetimeMs = DEFAULT_MS, reason, file } = this.flags
    if (lifetimeMs < 1_000 || lifetimeMs > LONGEST_LIFETIME_S * 1_000) {
      throw new TabibError('USAGE', `a lifetime of ${lifetimeMs / 1_000} s: it must be between 1s and 24h`)
    }
    const app = await this.openApp()
    const { db, operatorKeyStore: keyStore } = app
    const actorProof = await this.proveActor(planHash)
    const result = await this.mutate({ targets: [`plan:${planHash}`], actorProof, planHash, reason }, () =>
      createApproval(
        { db, keyStore },
        { operator: this.actor, planHash, context: app.config.context, reason, lifetimeMs },
      ),
    )
    if (file !== undefined) {
      await writeFile(file, `${result.approval}\n`).catch((cause) => {
        throw new TabibError('USAGE', `cannot write ${file}: ${cause.code}`, { cause })
      })
    }
    const until = new Date(result.claims.exp * 1_000).toISOString()
    this.succeed({
      result: { ...result, file: file ?? null },
      text: () => (file === undefined ? result.approval : `${mark('ok')} ${file}, to be used until ${until}`),
    })
  }
}
