import { TabibCommand } from '../../command.ts'
import { checkResidency } from '../../domain/residency/check.ts'
import { reportFlags, waiversFlag } from '../../flags.ts'

export default class ResidencyCheck extends TabibCommand<typeof ResidencyCheck> {
  static override summary = "Hold where data is and could go against each tenant's allowlist."
  static override description =
    'Members of every cluster by their Patroni tags, every backup by its signed manifest, network policies by the ' +
    'networks they open. Changes nothing. Exit 1 when something is amiss or cannot be read.'
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --output sarif > residency.sarif',
  ]
  static override flags = { ...reportFlags, waivers: waiversFlag }

  async run(): Promise<void> {
    const app = await this.openApp()
    const report = await checkResidency(app)
    await this.report({ ...report, subject: app.config.context, version: this.config.version })
  }
}
