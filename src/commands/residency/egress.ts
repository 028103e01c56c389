import { Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { networkPolicy, processNetworks } from '../../domain/residency/egress.ts'
import { requireResidency } from '../../domain/residency/gate.ts'
import { readTenancy } from '../../domain/residency/tenants.ts'
import { findTenant } from '../../domain/tenants/find.ts'
import { TabibError } from '../../errors.ts'

export default class ResidencyEgress extends TabibCommand<typeof ResidencyEgress> {
  static override summary = 'Compile the allowlists into network policy: where processes may connect to.'
  static override description =
    'The networks of every region that some tenant allows, and the platform’s own; with --tenant those of one tenant. ' +
    'Within them tabib bounds each request by its own tenant. `residency check` compares policies in force.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> | kubectl apply -f -',
    '<%= config.bin %> <%= command.id %> --tenant herat-markaz --selector app.kubernetes.io/name=billing',
    '<%= config.bin %> <%= command.id %> --output cidr',
  ]
  static override flags = {
    tenant: Flags.string({ helpValue: '<slug>', description: 'for processes that serve this tenant alone' }),
    output: Flags.option({ options: ['kubernetes', 'cidr'], default: 'kubernetes' as const })({
      helpValue: '<format>',
      description: 'a NetworkPolicy, or one network a line',
    }),
    selector: Flags.string({
      helpValue: '<label=value>',
      default: ['app.kubernetes.io/name=tabib'],
      multiple: true,
      multipleNonGreedy: true,
      description: 'labels of the pods that the policy is for',
    }),
  }

  async run(): Promise<void> {
    const { tenant: slug, output, selector } = this.flags
    const labels = Object.fromEntries(selector.map(parseLabel))
    const app = await this.openApp()
    const residency = requireResidency(app.config)
    const only = slug === undefined ? undefined : await findTenant(app, slug)
    const { tenants } = await readTenancy(app)
    const served = tenants.filter(({ id }) => only === undefined || id === only.id)
    const networks = processNetworks(residency, served)
    this.succeed({
      result: { tenant: only?.slug ?? null, networks },
      text: () =>
        output === 'cidr'
          ? networks.join('\n')
          : networkPolicy(networks, { selector: labels, tenant: only?.slug }).trimEnd(),
    })
  }
}

function parseLabel(text: string): [string, string] {
  const [, label, value] = /^([\w./-]+)=([\w.-]+)$/.exec(text) ?? []
  if (label !== undefined && value !== undefined) return [label, value]
  throw new TabibError('USAGE', `"${text}" is no label; write app.kubernetes.io/name=tabib`)
}
