import { Args, Flags } from '@oclif/core'
import { planned, severe, TabibCommand } from '../../command.ts'
import { assertResumable, resumeCategory } from '../../domain/messaging/resume.ts'
import { findTenant } from '../../domain/tenants/find.ts'
import { mark } from '../../render.ts'

export default class MessagingResume extends TabibCommand<typeof MessagingResume> {
  static override summary = "Let a tenant's messages of a halted category go out again."
  static override description =
    `Confirmed with the tenant and the category as in "herat-markaz/reminders". Refused while findings wait for their incident, or a
template of the category has no version in use.`
  static override examples = [
    '<%= config.bin %> <%= command.id %> reminders --tenant herat-markaz --dry-run',
    '<%= config.bin %> <%= command.id %> reminders --tenant herat-markaz --confirm herat-markaz/reminders --reason "1.4.2 is out"',
  ]
  static override args = {
    category: Args.string({ required: true, description: 'as messaging status names it' }),
  }
  static override flags = {
    tenant: Flags.string({ required: true, helpValue: '<tenant>', description: 'slug or id' }),
    ...planned,
    ...severe,
  }

  async run(): Promise<void> {
    const { category } = this.args
    const app = await this.openApp()
    const { id: tenantId, slug } = await findTenant(app, this.flags.tenant)
    const target = `${slug}/${category}`
    await assertResumable(app, { tenantId, category })
    const hash = await this.settlePlan(
      { resume: { tenantId, category } },
      () => `Messages of ${target} go out again.`,
    )
    if (hash === undefined) return
    const { reason } = await this.confirmSevere(target, `Sending messages of ${target} again`)
    const details = {
      ...{ targets: [`category:${target}`], planHash: hash, reason, tenantCount: 1 },
      failureMode: 'communication/C11',
    }
    const result = await this.mutateAlone(`category:${target}`, details, () =>
      resumeCategory(app, { tenantId, category, by: this.actor }),
    )
    this.succeed({ result, text: () => `${mark('ok')} ${target} goes out again` })
  }
}
