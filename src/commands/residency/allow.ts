import { Args, Flags } from '@oclif/core'
import { planned, severe, TabibCommand } from '../../command.ts'
import { allowRegion } from '../../domain/residency/allow.ts'
import { requireResidency } from '../../domain/residency/gate.ts'
import { readTenancy } from '../../domain/residency/tenants.ts'
import { findTenant } from '../../domain/tenants/find.ts'
import { TabibError } from '../../errors.ts'
import { mark } from '../../render.ts'

export default class ResidencyAllow extends TabibCommand<typeof ResidencyAllow> {
  static override summary = "Let a tenant's data be in one more region than its own, or no longer."
  static override examples = [
    '<%= config.bin %> <%= command.id %> herat-markaz af-kabul --dry-run',
    '<%= config.bin %> <%= command.id %> herat-markaz af-kabul --confirm herat-markaz --reason "contract of 2026-11-02"',
    '<%= config.bin %> <%= command.id %> herat-markaz af-kabul --remove --confirm herat-markaz --reason "contract ended"',
  ]
  static override args = {
    tenant: Args.string({ required: true, description: 'its slug or id' }),
    region: Args.string({ required: true, description: 'one of residency.regions' }),
  }
  static override flags = {
    remove: Flags.boolean({ description: 'no longer; what lies there already is found by residency check' }),
    ...planned,
    ...severe,
  }

  async run(): Promise<void> {
    const { region } = this.args
    const app = await this.openApp()
    const { regions } = requireResidency(app.config)
    const allow = !this.flags.remove
    if (allow && !Object.hasOwn(regions, region)) {
      throw new TabibError('NOT_FOUND', `no region "${region}"; there are ${Object.keys(regions).join(', ')}`)
    }
    const { id: tenantId, slug } = await findTenant(app, this.args.tenant)
    const allowedNow = async () => {
      const { tenants } = await readTenancy(app)
      return tenants.find(({ id }) => id === tenantId)?.allowed ?? []
    }
    const before = await allowedNow()
    const what = allow
      ? `Letting the data of ${slug} be in ${region}`
      : `Taking ${region} from the regions of ${slug}`
    const hash = await this.settlePlan(
      { slug, region, allow, before },
      () => `${what}, which ${before.includes(region) ? 'it allows' : 'it does not allow'} now`,
    )
    if (hash === undefined) return
    const { reason } = await this.confirmSevere(slug, what)
    const target = `tenant:${slug}`
    const { changed } = await this.mutateAlone(
      target,
      { targets: [target], planHash: hash, reason, tenantCount: 1 },
      () => allowRegion(app, { tenantId, region, allow }),
    )
    const allowed = await allowedNow()
    this.succeed({
      result: { tenant: slug, region, changed, allowed },
      text: () => `${mark('ok')} ${slug} allows ${allowed.join(', ')}${changed ? '' : ', as before'}`,
    })
  }
}
