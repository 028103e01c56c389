import { Flags } from '@oclif/core'
import { durationFlag, moderate, planned, TabibCommand } from '../../command.ts'
import {
  type EscalationPlan,
  escalateRefunds,
  planEscalation,
} from '../../domain/payments/escalate-refunds.ts'
import { findTenant } from '../../domain/tenants/find.ts'
import { mark, table } from '../../render.ts'

export default class RefundsEscalate extends TabibCommand<typeof RefundsEscalate> {
  static override summary = 'Call the people who must decide about refunds that are stuck.'
  static override description =
    `Tells the ops channel, and pages each refund's clinician, or its tenant's refund approvers where the clinician asked for
it or there is none. For a refund it calls once, whoever runs it and however often; the refund-watch worker does the same
by itself when more than 50 have been stuck for 24 hours.`
  static override examples = [
    '<%= config.bin %> <%= command.id %> --dry-run',
    '<%= config.bin %> <%= command.id %> --tenant herat-markaz --older-than 4h --yes',
  ]
  static override flags = {
    'older-than': durationFlag({ description: 'those requested so long ago: 24h when not given' }),
    tenant: Flags.string({ helpValue: '<tenant>', description: "this one's alone: slug or id" }),
    ...planned,
    ...moderate,
  }

  async run(): Promise<void> {
    const { tenant, 'older-than': olderThanMs } = this.flags
    const app = await this.openApp()
    const tenantId = tenant === undefined ? undefined : (await findTenant(app, tenant)).id
    const plan = await planEscalation(app, { olderThanMs, tenantId })
    const hash = await this.settlePlan(plan, () => planText(plan))
    if (hash === undefined) return
    let result = { refunds: 0, opened: 0 }
    if (plan.calls.length > 0) {
      this.note(planText(plan))
      await this.confirmModerate(`Calling ${plan.calls.map(({ notify }) => notify).join(', ')}`)
      const targets = plan.calls.map(({ tenant, notify }) => `${tenant ?? 'platform'}:${notify}`)
      const details = { targets, planHash: hash, failureMode: 'billing/FM-10' }
      result = await this.mutate(details, () => escalateRefunds(app, plan))
    }
    this.succeed({
      result: { ...plan, ...result },
      text: () =>
        result.refunds === 0
          ? `${mark('ok')} ${NOTHING}`
          : `${mark('ok')} refunds escalated: ${result.refunds}; called by the pager worker: ${result.opened}, called before: ${plan.calls.length - result.opened}`,
    })
  }
}

const NOTHING = 'no refund is stuck that nobody was called for'

function planText({ calls }: EscalationPlan): string {
  if (calls.length === 0) return NOTHING
  const rows = calls.map(({ tenant, notify, refundIds, oldestAt }) => ({
    call: notify,
    tenant,
    refunds: refundIds.length,
    oldest: oldestAt,
  }))
  return table(rows, ['call', 'tenant', 'refunds', 'oldest'])
}
