import { Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { reconcileErasures } from '../../domain/erasure/reconcile.ts'
import { findTenant } from '../../domain/tenants/find.ts'
import { reportFlags, waiversFlag } from '../../flags.ts'

export default class ErasureReconcile extends TabibCommand<typeof ErasureReconcile> {
  static override summary =
    'Hold every erasure against what there is now: who has not acknowledged, what is there again.'
  static override description =
    `requests × participants − acknowledgements, with every store read again by this process, and every patient's id held
against the keyed hashes of whoever was erased. Changes nothing; \`erasure replay\` does what is missing. Exits 1 for what is
overdue or was found.`
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --scan',
    '<%= config.bin %> <%= command.id %> --tenant herat-markaz --output junit',
  ]
  static override flags = {
    tenant: Flags.string({ helpValue: '<tenant>', description: "this one's alone: slug or id" }),
    scan: Flags.boolean({
      description:
        'read all text and JSON too, in search of what erased patients are known by; takes its time',
    }),
    ...reportFlags,
    waivers: waiversFlag,
  }

  async run(): Promise<void> {
    const app = await this.openApp()
    const { tenant, scan } = this.flags
    const tenantId = tenant === undefined ? undefined : (await findTenant(app, tenant)).id
    await this.report({
      check: 'erasure reconcile',
      subject: tenant ?? app.config.context,
      version: this.config.version,
      ...(await reconcileErasures(app, { tenantId, scan, signal: this.signal })),
    })
  }
}
