import { Args, Flags } from '@oclif/core'
import { severe, TabibCommand } from '../../command.ts'
import {
  addOperator,
  assertOperatorName,
  isRegistered,
  listOperators,
  operatorsIn,
  parsePublicKey,
} from '../../domain/approval/operator.ts'
import { planHash } from '../../domain/audit/canonical-json.ts'
import { mark } from '../../render.ts'
import { readTextFile } from '../../text-file.ts'

export default class OperatorAdd extends TabibCommand<typeof OperatorAdd> {
  static override summary =
    'Register an operator: who may approve severe operations of others, and act on approvals.'
  static override description =
    'With --public-key another person’s key is registered. Without it a key pair is made in the key store of ' +
    'whoever runs this (TABIB_OPERATOR_KEY_STORE, or TABIB_KEY_STORE), and its public half registered; the private half never leaves the store.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> maryam@ops --confirm maryam@ops --reason "joins the on-call rota"',
    '<%= config.bin %> <%= command.id %> maryam@ops --public-key maryam.jwk --confirm maryam@ops --reason "on-call"',
  ]
  static override args = { name: Args.string({ required: true, description: 'as TABIB_ACTOR names them' }) }
  static override flags = {
    'public-key': Flags.string({ helpValue: '<file>', description: "the operator's public key, a JWK" }),
    ...severe,
  }

  async run(): Promise<void> {
    const { name } = this.args
    assertOperatorName(name)
    const file = this.flags['public-key']
    const given = file === undefined ? undefined : await parsePublicKey(await readTextFile(file), file)
    const app = await this.openApp()
    if (given) await isRegistered(app, { name, kid: given.kid })
    const { reason } = await this.confirmSevere(name, `Letting ${name} approve the operations of others`)
    const plan = { operator: name, kid: given?.kid ?? null }
    const result = await this.mutateAlone(
      `operator:${name}`,
      { targets: [`operator:${name}`], planHash: planHash(plan), reason },
      async () => {
        const operators = await listOperators(app)
        const known = operators.find((operator) => operator.name === name)
        // The same command again makes no second key.
        if (known && given === undefined) return { name, kid: known.kid, added: false, sharedWith: [] }
        const store = given ? undefined : await app.operatorKeyStore()
        const sharedWith = store ? await operatorsIn(store, operators) : []
        const publicJwk = given ?? (await store!.generate('ES256')).publicJwk
        return {
          name,
          kid: publicJwk.kid,
          ...(await addOperator(app, { name, publicJwk, by: this.actor })),
          publicJwk,
          sharedWith,
        }
      },
    )
    this.succeed({
      result,
      text: () =>
        `${mark('ok')} ${name} ${result.added ? 'added' : 'is registered already'}, key ${result.kid}`,
      warnings: result.sharedWith.map(
        (other) =>
          `this key store holds the key of ${other} too: who opens it can be both; give each a store of their own`,
      ),
    })
  }
}
