import { Flags } from '@oclif/core'
import { moderate, planned, TabibCommand } from '../../command.ts'
import type { TenantPlan } from '../../domain/tenants/apply.ts'
import type { Tenant } from '../../domain/tenants/tenant.ts'
import { mark } from '../../render.ts'

/** What a screen shows of a plan; `--json` has all of it. */
const SHOWN = 40

export default class TenantApply extends TabibCommand<typeof TenantApply> {
  static override summary =
    'Make a tenant in the database what its tenant.yaml says: a new one, or what was changed.'
  static override description =
    `A new tenant is onboarding, and nobody's data is there yet; tenant go-live makes it live. Accounts are opened and
never changed. Of a live tenant the currency, the regions and begun price lists stay, and no check may fail that passes
now.`
  static override examples = [
    '<%= config.bin %> <%= command.id %> --file tenants/herat-markaz.yaml --dry-run',
    '<%= config.bin %> <%= command.id %> --file tenants/herat-markaz.yaml --yes',
  ]
  static override flags = {
    file: Flags.string({
      required: true,
      helpValue: '<file>',
      description: 'its document (docs/onboarding.md)',
    }),
    ...planned,
    ...moderate,
  }

  async run(): Promise<void> {
    const app = await this.openApp()
    const { applyTenant, planTenant } = await import('../../domain/tenants/apply.ts')
    const tenant = await this.#read(app.config.residency && Object.keys(app.config.residency.regions))
    const plan = await planTenant(app, tenant)
    const hash = await this.settlePlan(plan, () => planText(plan))
    if (hash === undefined) return
    const { slug } = tenant
    let changed = 0
    if (plan.changes.length > 0) {
      this.note(planText(plan))
      await this.confirmModerate(`${plan.id === null ? 'register' : 'change'} tenant ${slug}`)
      const details = { targets: [`tenant:${slug}`], planHash: hash, tenantCount: 1 }
      changed = (await this.mutate(details, () => applyTenant(app, { tenant, hash }))).changed
    }
    const status = plan.status ?? 'onboarding'
    this.succeed({
      result: { ...plan, status, changed },
      text: () =>
        changed === 0
          ? `${mark('ok')} ${slug} is what ${this.flags.file} says`
          : `${mark('ok')} ${slug} ${plan.id === null ? 'is registered' : 'is changed'}, ${status}`,
      warnings: tenant.status === status ? [] : [statusWarning(tenant.status, slug)],
    })
  }

  /** @throws TabibError TENANT_INVALID */
  async #read(regions: readonly string[] | undefined): Promise<Tenant> {
    const { file } = this.flags
    const [{ readTextFile }, { parseTenant, tenantInvalid }, { unwritable }] = await Promise.all([
      import('../../text-file.ts'),
      import('../../domain/tenants/parse.ts'),
      import('../../domain/tenants/apply.ts'),
    ])
    const parsed = parseTenant(await readTextFile(file))
    if (parsed.kind === 'invalid') throw tenantInvalid(parsed.problems.map((one) => ({ file, ...one })))
    const problems = unwritable(parsed.tenant, regions).map(({ path, message }) => ({
      file,
      line: parsed.lineOf(path),
      path: path.join('.'),
      message,
    }))
    if (problems.length > 0) throw tenantInvalid(problems.sort((a, b) => a.line - b.line))
    return parsed.tenant
  }
}

function planText({ tenant, id, changes }: TenantPlan): string {
  if (changes.length === 0) return `  ${tenant}: nothing changes`
  const lines = changes
    .slice(0, SHOWN)
    .map(({ path, from, to }) =>
      from === null
        ? `  + ${path}: ${to}`
        : to === null
          ? `  - ${path}: ${from}`
          : `  ~ ${path}: ${from} becomes ${to}`,
    )
  const more = changes.length - lines.length
  return [
    `${tenant} ${id === null ? 'is new' : 'changes'}:`,
    ...lines,
    ...(more > 0 ? [`  and ${more} more (--json has all)`] : []),
  ].join('\n')
}

const statusWarning = (wanted: Tenant['status'], slug: string): string =>
  wanted === 'live'
    ? `${slug} stays onboarding, whatever the document says; next: tabib tenant go-live ${slug}`
    : `${slug} is live; let the document say so`
