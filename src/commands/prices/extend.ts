import { Flags } from '@oclif/core'
import { durationFlag, moderate, planned, TabibCommand } from '../../command.ts'
import { applyExtension, type ExtensionPlan, planExtension } from '../../domain/prices/extend.ts'
import { PRICE_NOTICE_MS } from '../../domain/prices/lapses.ts'
import { findTenant } from '../../domain/tenants/find.ts'
import { TabibError } from '../../errors.ts'
import { mark, table } from '../../render.ts'

const DEFAULT_BY_MS = 30 * 86_400_000

export default class PricesExtend extends TabibCommand<typeof PricesExtend> {
  static override summary = 'Let the prices of lists that end soon hold on, until the new ones are there.'
  static override description =
    `Each list that "prices expiring" shows goes on at its prices, as far as the beginning of the next one; where another
list follows and only lacks some items, their prices are added to it. What is priced is changed by the tenant alone.`
  static override examples = [
    '<%= config.bin %> <%= command.id %> --within 7d --by 30d --dry-run',
    '<%= config.bin %> <%= command.id %> --tenant herat-markaz --yes',
  ]
  static override flags = {
    within: durationFlag({ description: 'lists that end within this time: 7d when not given' }),
    by: durationFlag({ description: 'how long they hold on: 30d when not given' }),
    tenant: Flags.string({ helpValue: '<tenant>', description: "this one's alone: slug or id" }),
    ...planned,
    ...moderate,
  }

  async run(): Promise<void> {
    const { within: withinMs = PRICE_NOTICE_MS, by: byMs = DEFAULT_BY_MS, tenant } = this.flags
    if (byMs <= withinMs) {
      throw new TabibError('USAGE', 'with --by no longer than --within, the lists would end soon again')
    }
    const app = await this.openApp()
    const tenantId = tenant === undefined ? undefined : (await findTenant(app, tenant)).id
    const plan = await planExtension(app, { withinMs, byMs, tenantId })
    const hash = await this.settlePlan(plan, () => planText(plan))
    if (hash === undefined) return
    let extended = 0
    if (plan.extensions.length > 0) {
      this.note(planText(plan))
      await this.confirmModerate(`Extending ${lists(plan.extensions.length)}`)
      const targets = plan.extensions.map((one) => `price-list:${one.tenant}/${one.list}`)
      const tenantCount = new Set(plan.extensions.map((one) => one.tenantId)).size
      const details = { targets, planHash: hash, tenantCount, failureMode: 'billing/FM-14' }
      extended = (await this.mutate(details, () => applyExtension(app, plan))).extended
    }
    this.succeed({
      result: { ...plan, extended },
      text: () =>
        extended === 0
          ? `${mark('ok')} no price list has to be extended`
          : `${mark('ok')} ${lists(extended)} extended`,
    })
  }
}

const lists = (count: number): string => `${count} price list${count === 1 ? '' : 's'}`

function planText({ extensions }: ExtensionPlan): string {
  if (extensions.length === 0) return 'no price list has to be extended'
  const rows = extensions.map(({ tenant, list, endsAt, until, addTo }) => ({
    tenant,
    list,
    ends: endsAt,
    becomes:
      addTo === null
        ? `holds until ${until.toISOString()}`
        : `prices of ${addTo.items.join(', ')} are added to what follows`,
  }))
  return table(rows, ['tenant', 'list', 'ends', 'becomes'])
}
