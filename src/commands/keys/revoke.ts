import { writeFile } from 'node:fs/promises'
import { Args, Flags } from '@oclif/core'
import type { App } from '../../app.ts'
import { planned, severe, TabibCommand } from '../../command.ts'
import { planRevocation, type RevocationPlan, revokeKey } from '../../domain/keys/revoke.ts'
import { type Acceptance, acceptedUnder, evictRevoked, sessionsUnder } from '../../domain/sessions/evict.ts'
import { leakedKeys } from '../../domain/sessions/join-failures.ts'
import { JOIN_TOKEN } from '../../domain/sessions/join-token.ts'
import { TabibError } from '../../errors.ts'
import { details, mark, table, toJson } from '../../render.ts'

export default class KeysRevoke extends TabibCommand<typeof KeysRevoke> {
  static override summary =
    'A key has leaked: refuse everything that it signed, everywhere, and sign with another.'
  static override description =
    'Verifiers hear of it over NATS within a second, and without NATS at their next load. Nobody waits for caches: for ' +
    'keys that may have leaked and whose tokens should stay good, use `keys rotate --taint`. Of join tokens it also puts ' +
    'everybody out of the sessions that the key opened, and lists what was accepted under it. It may be run again.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> <kid> --dry-run',
    '<%= config.bin %> <%= command.id %> <kid> --confirm <kid> --reason "found in a public repository"',
    '<%= config.bin %> <%= command.id %> --leaked --confirm join-token --reason "forged tokens" --file forensics.json',
  ]
  static override args = {
    kid: Args.string({ description: 'the key, as keys list names it' }),
  }
  static override flags = {
    leaked: Flags.boolean({
      default: false,
      description:
        'the key that signs join tokens which nobody issued (communication/C10), instead of naming one',
    }),
    file: Flags.string({
      helpValue: '<file>',
      description: 'write what was accepted under the key there, as JSON, instead of printing it',
    }),
    ...planned,
    ...severe,
  }

  async run(): Promise<void> {
    const app = await this.openApp()
    const kid = await this.#chosen(app)
    const plan = await planRevocation(app, { kid })
    const hash = await this.settlePlan(plan, () => planText(plan))
    if (hash === undefined) return
    this.note(planText(plan))
    const { reason } = await this.confirmSevere(
      this.flags.leaked ? plan.purpose : kid,
      `Revoking a key of ${plan.purpose}`,
    )
    const target = `keys:${plan.purpose}`
    const result = await this.mutateAlone(
      target,
      { targets: [target, `key:${kid}`], planHash: hash, reason },
      async () => {
        const revocation = await revokeKey(app, { kid, reason, by: this.actor, runId: this.runId })
        await evictRevoked(app)
        // The key-rotation worker may have come first, or a run before this one.
        return {
          ...revocation,
          sessions: await sessionsUnder(app, { kid }),
          accepted: await acceptedUnder(app, { kid }),
        }
      },
    )
    const { file } = this.flags
    if (file !== undefined) await writeList(file, { kid, accepted: result.accepted })
    this.succeed({
      result,
      text: () =>
        [
          `${mark('ok')} ${kid} ${result.revoked ? 'is revoked' : 'was revoked before'}; ${result.successor ?? 'no key'} signs`,
          ...(plan.purpose === JOIN_TOKEN.purpose ? [aftermath(result, file)] : []),
        ].join('\n'),
      warnings: [
        ...(result.successor === null
          ? ['no key signs: none could be made; the key-rotation worker goes on trying']
          : []),
        ...result.undestroyed,
        ...(result.announced ? [] : ['NATS did not hear of it; verifiers find out at their next load']),
      ],
    })
  }

  async #chosen(app: App): Promise<string> {
    const { kid } = this.args
    if ((kid !== undefined) === this.flags.leaked) {
      throw new TabibError('USAGE', 'name the key, or give --leaked', { suggestions: ['tabib keys list'] })
    }
    if (kid !== undefined) return kid
    const [leaked, ...others] = await leakedKeys(app)
    const suggestions = ['tabib status communication/C10 --json', 'tabib keys list']
    if (leaked === undefined) {
      const message = 'no join token was seen that a key in use signed and nobody issued'
      throw new TabibError('NOT_NEEDED', message, { suggestions })
    }
    if (others.length === 0) return leaked
    const all = [leaked, ...others].join(', ')
    throw new TabibError('USAGE', `several keys leaked, name one at a time: ${all}`, { suggestions })
  }
}

async function writeList(file: string, list: { kid: string; accepted: Acceptance[] }): Promise<void> {
  await writeFile(file, `${toJson(list)}\n`, { mode: 0o600 }).catch((cause) => {
    throw new TabibError('USAGE', `the key is revoked; ${file} cannot be written: ${cause.code}`, {
      cause,
      suggestions: [
        `tabib keys revoke ${list.kid} --confirm ${list.kid} --reason "list again" --file <file>`,
      ],
    })
  })
}

function aftermath(
  { sessions, accepted }: { sessions: unknown[]; accepted: Acceptance[] },
  file: string | undefined,
): string {
  const counts = `sessions told to put everybody out: ${sessions.length}; tokens accepted under it: ${accepted.length}`
  if (file !== undefined) return `${counts}, in ${file}`
  if (accepted.length === 0) return counts
  const columns = ['jti', 'tenantId', 'sessionId', 'participantId', 'firstAcceptedAt', 'acceptances'] as const
  return `${counts}\n${table(accepted, columns)}`
}

const planText = ({ kid, purpose, phase, successor }: RevocationPlan): string =>
  details({
    refused: `everything that ${kid} signed`,
    purpose,
    phase,
    'signs afterwards': successor === 'new' ? 'a new key' : successor,
  })
