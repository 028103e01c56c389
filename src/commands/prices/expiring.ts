import { Flags } from '@oclif/core'
import { durationFlag, TabibCommand } from '../../command.ts'
import { PRICE_NOTICE_MS, type PriceLapse, priceLapses } from '../../domain/prices/lapses.ts'
import { findTenant } from '../../domain/tenants/find.ts'
import { mark, table } from '../../render.ts'

export default class PricesExpiring extends TabibCommand<typeof PricesExpiring> {
  static override summary = 'Price lists that end soon and are not followed without a gap.'
  static override description =
    `A list is followed when at its very end another one of the same currency holds, with a price for every item that is
for sale. Lists that have ended already stay here until one holds again. Exit 1 when there is one.`
  static override examples = [
    '<%= config.bin %> <%= command.id %> --within 7d',
    '<%= config.bin %> <%= command.id %> --within 30d --tenant herat-markaz --json',
  ]
  static override flags = {
    within: durationFlag({ description: 'end within this time: 7d when not given' }),
    tenant: Flags.string({ helpValue: '<tenant>', description: "this one's alone: slug or id" }),
  }

  async run(): Promise<void> {
    const { within = PRICE_NOTICE_MS, tenant } = this.flags
    const app = await this.openApp()
    const tenantId = tenant === undefined ? undefined : (await findTenant(app, tenant)).id
    const result = await priceLapses(app, { withinMs: within, tenantId })
    this.succeed({
      result,
      status: result.length > 0 ? 'findings' : 'ok',
      text: () =>
        result.length === 0
          ? `${mark('ok')} no price list ends within ${within / 86_400_000} days without a successor`
          : `${table(result.map(row), ['tenant', 'list', 'currency', 'ends', 'afterwards'])}\n\nNext: tabib prices extend --dry-run`,
    })
  }
}

const row = ({ tenant, list, currency, endsAt, ended, whole, items, nextFrom }: PriceLapse) => ({
  tenant,
  list,
  currency,
  ends: `${endsAt.toISOString()}${ended ? ' (it has ended)' : ''}`,
  afterwards: whole
    ? nextFrom === null
      ? 'no price list'
      : `no price list until ${nextFrom.toISOString()}`
    : `no price for ${items.slice(0, 5).join(', ')}${items.length > 5 ? ` and ${items.length - 5} more` : ''}`,
})
