import { Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { AUDIT_RULES, parseAnchor, verifyAudit } from '../../domain/audit/verify.ts'
import { reportFlags } from '../../flags.ts'

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
    ...reportFlags,
  }

  async run(): Promise<void> {
    const { anchor } = this.flags
    const { db, config } = await this.openApp()
    const { records, head, findings } = await verifyAudit(
      { db },
      { anchor: anchor === undefined ? undefined : parseAnchor(anchor) },
    )
    await this.report({
      check: 'audit verify',
      subject: config.context,
      version: this.config.version,
      rules: AUDIT_RULES,
      findings,
      facts: { records, ...(head === undefined ? {} : { head }) },
    })
  }
}
