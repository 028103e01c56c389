import { Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { parseAnchor, verifyAudit } from '../../domain/audit/verify.ts'
import { FINDING_FORMATS, mark, renderFindings } from '../../render.ts'

export default class AuditVerify extends TabibCommand<typeof AuditVerify> {
  static override summary = 'prove that no record of the audit trail was edited, deleted, inserted or moved'
  static override description =
    `Reads the whole trail and follows its hash chain. Exit 1 names every record that is wrong.

Records cut off the end leave a chain that is whole. Note the head that this command prints in a place outside the
database, and pass it next time with --anchor: then a cut shows as well.`
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --anchor 4211:9f2c… --output junit',
  ]
  static override flags = {
    anchor: Flags.string({
      helpValue: '<seq>:<hash>',
      description: 'a head that was noted outside the database',
    }),
    output: Flags.option({ options: FINDING_FORMATS, default: 'table' as const })({
      helpValue: '<format>',
      description: 'how findings are printed',
    }),
  }

  async run(): Promise<void> {
    const { anchor, output } = this.flags
    const result = await verifyAudit(await this.openApp(), {
      anchor: anchor === undefined ? undefined : parseAnchor(anchor),
    })
    const { records, head, findings } = result
    this.succeed({
      result,
      status: findings.length > 0 ? 'findings' : 'ok',
      text: () => {
        if (findings.length > 0 || output !== 'table') {
          return renderFindings(findings, { format: output, check: 'audit verify' })
        }
        return head === undefined
          ? `${mark('ok')} the audit trail is empty`
          : `${mark('ok')} ${records} audit records, chain whole\n  head ${head}`
      },
    })
  }
}
