import { Args } from '@oclif/core'
import { moderate, planned, TabibCommand } from '../../command.ts'
import type { Subject } from '../../domain/tenants/examine.ts'
import { TabibError } from '../../errors.ts'
import type { Finding } from '../../finding.ts'
import { fails } from '../../findings-report.ts'
import { waiversFlag } from '../../flags.ts'
import { counted, mark } from '../../render.ts'

export default class TenantGoLive extends TabibCommand<typeof TenantGoLive> {
  static override summary = 'Make a tenant live, once every check of it passes.'
  static override description =
    'Asks all that tenant check asks, of the running systems too, and refuses while anything fails that nobody waives.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> herat-markaz --dry-run',
    '<%= config.bin %> <%= command.id %> herat-markaz --waivers tenants/waivers.yml --yes',
  ]
  static override args = {
    tenant: Args.string({ required: true, description: 'slug or id, from tenant list' }),
  }
  static override flags = { ...planned, ...moderate, waivers: waiversFlag }

  async run(): Promise<void> {
    const app = await this.openApp()
    const [{ examined, goLive }, { readTenants }] = await Promise.all([
      import('../../domain/tenants/go-live.ts'),
      import('../../domain/tenants/read.ts'),
    ])
    const [subject] = await readTenants(app.db, this.args.tenant)
    const { tenant } = subject!
    const { slug } = tenant
    if (tenant.status === 'live') {
      this.succeed({
        result: { tenant: slug, changed: false },
        text: () => `${mark('ok')} ${slug} is live already`,
      })
      return
    }
    const findings = await this.#examine(subject!)
    const waived = findings.filter((one) => one.waived).map(({ cacheKey }) => cacheKey)
    const document = examined(tenant)
    const hash = await this.settlePlan(
      { goLive: slug, document, waived },
      () => `${slug} goes live: every check passes`,
    )
    if (hash === undefined) return
    await this.confirmModerate(`make ${slug} live, so that patients can be seen and charged`)
    const { changed } = await this.mutate(
      { targets: [`tenant:${slug}`], planHash: hash, tenantCount: 1 },
      () => goLive(app, { slug, document }),
    )
    this.succeed({ result: { tenant: slug, changed, waived }, text: () => `${mark('ok')} ${slug} is live` })
  }

  /** @throws TabibError TENANT_REFUSED with all that fails. */
  async #examine(subject: Subject): Promise<Finding[]> {
    const app = await this.openApp()
    const [{ examineTenants }, { reachOf }] = await Promise.all([
      import('../../domain/tenants/examine.ts'),
      import('../../domain/tenants/probes/index.ts'),
    ])
    // As it will be judged from then on: a price list that lies ahead is none of a live tenant.
    const examination = await examineTenants(
      [{ ...subject, tenant: { ...subject.tenant, status: 'live' } }],
      { now: new Date(), reach: reachOf(app) },
    )
    const { slug } = subject.tenant
    const report = { check: 'tenant check', subject: slug, version: this.config.version, ...examination }
    const judged = await this.waive(report)
    // No waiver gives anybody a currency, and the database lets nobody live without one.
    const against = judged.findings.filter((one) => fails(one) || one.id === 'tenant/currency-set')
    if (against.length === 0) return [...judged.findings]
    throw new TabibError(
      'TENANT_REFUSED',
      `${slug} may not go live, for ${counted(against.length, 'reason')}:\n${against
        .map(({ id, object, message }) => `  ${id}: ${object}: ${message}`)
        .join('\n')}`,
      { suggestions: [`tabib tenant check ${slug}`], context: { tenant: slug, findings: against } },
    )
  }
}
