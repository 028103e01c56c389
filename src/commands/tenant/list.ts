import { Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { listTenants } from '../../domain/tenants/list.ts'
import { table } from '../../render.ts'

export default class TenantList extends TabibCommand<typeof TenantList> {
  static override summary = 'List tenants: slug, status, currency, region.'
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --status onboarding',
  ]
  static override flags = {
    status: Flags.option({ options: ['onboarding', 'live'] as const })({ description: 'these alone' }),
  }

  async run(): Promise<void> {
    const tenants = await listTenants(await this.openApp(), this.flags)
    this.succeed({
      result: tenants,
      text: () =>
        tenants.length === 0
          ? 'no tenant is registered'
          : table(tenants, ['slug', 'status', 'currency', 'region', 'createdAt', 'name']),
    })
  }
}
