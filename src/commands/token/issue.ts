import { existsSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { Flags } from '@oclif/core'
import { durationFlag, moderate, TabibCommand } from '../../command.ts'
import { TabibError } from '../../errors.ts'

const DEFAULT_MS = 300_000

export default class TokenIssue extends TabibCommand<typeof TokenIssue> {
  static override summary = 'Issue a token with which a service calls the API for one tenant.'
  static override description =
    'Signed with the active key of "service-token". It is a secret: written to a file that nobody else may read, and not ' +
    'printed. It cannot be taken back before it expires, but by revoking the key.'
  static override examples = [
    '<%= config.bin %> token issue --service scheduling --tenant <tenant id> --file scheduling.jwt --yes',
    '<%= config.bin %> token issue --service cashier --audience billing --tenant <tenant id> --file cashier.jwt --yes',
  ]
  static override flags = {
    service: Flags.string({ required: true, helpValue: '<name>', description: 'who will call' }),
    audience: Flags.option({
      options: ['virtual-care', 'billing', 'communication'] as const,
      default: 'virtual-care',
      description: 'whose API it opens',
    })(),
    tenant: Flags.string({ required: true, helpValue: '<id>', description: 'the tenant it may call for' }),
    lifetime: durationFlag({ description: 'how long it is good: five minutes when not given' }),
    file: Flags.string({ required: true, helpValue: '<file>', description: 'where to write it, mode 600' }),
    ...moderate,
  }

  async run(): Promise<void> {
    const { service, audience, tenant, file, lifetime: lifetimeMs = DEFAULT_MS } = this.flags
    if (!/^[a-z][a-z0-9-]{0,39}$/.test(service)) {
      const seen = JSON.stringify(service)
      throw new TabibError('USAGE', `${seen} is no service: write lower-case words such as scheduling`)
    }
    if (lifetimeMs < 1_000) {
      throw new TabibError(
        'USAGE',
        `a token that lives ${lifetimeMs} ms has expired when it is signed: 1s at least`,
      )
    }
    if (existsSync(file)) {
      throw new TabibError('USAGE', `${file} is there already: a token is written to a file of its own`)
    }
    const app = await this.openApp()
    const [{ issueServiceToken }, { findTenant }] = await Promise.all([
      import('../../domain/sessions/caller.ts'),
      import('../../domain/tenants/find.ts'),
    ])
    const { id: tenantId, slug } = await findTenant(app, tenant)
    await this.confirmModerate(`Letting ${service} call ${audience} for tenant ${slug}`)
    const targets = [`service ${service}`, `tenant ${tenantId}`]
    const { kid, expiresAt } = await this.mutate({ targets }, async () => {
      const issued = await issueServiceToken(app, {
        service,
        tenantId,
        audience,
        lifetimeS: Math.floor(lifetimeMs / 1_000),
      })
      await writeFile(file, issued.token, { mode: 0o600, flag: 'wx' }).catch((cause) => {
        throw new TabibError('USAGE', `cannot write ${file}: ${cause.code}`, { cause })
      })
      return issued
    })
    this.succeed({
      result: { file, kid, expiresAt },
      text: () => `${file}: good until ${expiresAt.toISOString()}`,
    })
  }
}
