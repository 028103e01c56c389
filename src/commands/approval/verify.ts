import { Args, Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { verifyApproval } from '../../domain/approval/accept.ts'
import { parsePublicKey } from '../../domain/approval/operator.ts'
import { mark } from '../../render.ts'
import { readTextFile } from '../../text-file.ts'

export default class ApprovalVerify extends TabibCommand<typeof ApprovalVerify> {
  static override summary = "Check an approval against an operator's public key; needs no server."
  static override examples = ['<%= config.bin %> <%= command.id %> approval.jws --public-key maryam.jwk']
  static override args = { file: Args.string({ required: true, description: 'the approval' }) }
  static override flags = {
    'public-key': Flags.string({ required: true, helpValue: '<file>', description: 'a JWK' }),
  }

  async run(): Promise<void> {
    const [approval, key] = await Promise.all([this.args.file, this.flags['public-key']].map(readTextFile))
    const claims = await verifyApproval(approval!, await parsePublicKey(key!, this.flags['public-key']))
    const until = new Date(claims.exp * 1_000).toISOString()
    const past = claims.exp * 1_000 <= Date.now()
    this.succeed({
      result: { ...claims, expired: past },
      text: () =>
        `${mark('ok')} ${claims.iss} approved plan ${claims.planHash} in "${claims.context}": ${claims.reason}`,
      warnings: past ? [`its time ended at ${until}`] : [],
    })
  }
}
