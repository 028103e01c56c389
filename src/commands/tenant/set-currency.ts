import { Args } from '@oclif/core'
import { moderate, planned, TabibCommand } from '../../command.ts'
import type { CurrencyPlan } from '../../domain/tenants/set-currency.ts'
import { counted, mark } from '../../render.ts'

export default class TenantSetCurrency extends TabibCommand<typeof TenantSetCurrency> {
  static override summary = 'Give tenants the default currency that they lack.'
  static override description =
    `Without a tenant: every live one that has no currency anybody can pay in. Without a currency: the only one that
the tenant's price lists and accounts are in. A currency that is set already stays.`
  static override examples = [
    '<%= config.bin %> <%= command.id %> --dry-run',
    '<%= config.bin %> <%= command.id %> herat-markaz AFN --yes',
  ]
  static override args = {
    tenant: Args.string({ description: 'slug or id, from tenant list' }),
    currency: Args.string({ description: 'ISO 4217: AFN' }),
  }
  static override flags = { ...planned, ...moderate }

  async run(): Promise<void> {
    const { applyCurrency, planCurrency } = await import('../../domain/tenants/set-currency.ts')
    const app = await this.openApp()
    const plan = await planCurrency(app, this.args)
    const hash = await this.settlePlan(plan, () => planText(plan))
    if (hash === undefined) return
    let changed = 0
    if (plan.set.length > 0) {
      this.note(planText(plan))
      await this.confirmModerate(`set the currency of ${counted(plan.set.length, 'tenant')}`)
      const targets = plan.set.map(({ slug }) => `tenant:${slug}`)
      const details = { targets, planHash: hash, tenantCount: targets.length }
      changed = (await this.mutate(details, () => applyCurrency(app, plan))).set
    }
    this.succeed({
      result: { ...plan, changed },
      status: plan.undecided.length > 0 ? 'partial' : 'ok',
      text: () => outcomeText(plan, changed),
    })
  }
}

function planText({ set, undecided }: CurrencyPlan): string {
  const lines = [
    ...set.map(
      ({ slug, from, to }) => `  ${slug}: ${from === null ? 'no currency' : `"${from}"`} becomes ${to}`,
    ),
    ...undecided.map(
      ({ slug, why }) => `  ${slug}: ${why}; next: tabib tenant set-currency ${slug} <currency>`,
    ),
  ]
  return lines.length > 0 ? lines.join('\n') : '  every live tenant has a currency'
}

function outcomeText(plan: CurrencyPlan, changed: number): string {
  if (plan.undecided.length === 0) {
    return changed === 0
      ? `${mark('ok')} every live tenant has a currency`
      : `${mark('ok')} ${counted(changed, 'tenant has', 'tenants have')} a currency now`
  }
  return `${mark('warning')} ${changed} set, ${plan.undecided.length} left for you to decide:\n${planText({ set: [], undecided: plan.undecided })}`
}
