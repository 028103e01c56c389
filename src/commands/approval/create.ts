import { writeFile } from 'node:fs/promises'
import { Args, Flags } from '@oclif/core'
import { durationFlag, TabibCommand } from '../../command.ts'
import { createApproval, LONGEST_LIFETIME_S } from '../../domain/approval/create.ts'
import { readOperatorKeys } from '../../domain/approval/operator.ts'
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
    const { operatorKeyStore: keyStore } = app
    const ask = { operator: this.actor, planHash, context: app.config.context, reason, lifetimeMs }
    const result = await this.#recorded(planHash, reason, () =>
      createApproval({ db: app.db, keyStore }, ask),
    ).catch(async (error) => {
      const operators = app.config.residency?.operators
      if (operators === undefined || error.code !== 'POSTGRES_UNREACHABLE') throw error
      this.note('no database takes writes: this consent is on record only with what it is used for')
      return createApproval({ operators: await readOperatorKeys(operators), keyStore }, ask)
    })
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

  async #recorded<R>(planHash: string, reason: string, work: () => Promise<R>): Promise<R> {
    const actorProof = await this.proveActor(planHash)
    return this.mutate({ targets: [`plan:${planHash}`], actorProof, planHash, reason }, work)
  }
}
