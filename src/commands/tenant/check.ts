import { Args, Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { CATEGORIES } from '../../domain/tenants/check.ts'
import type { Subject } from '../../domain/tenants/examine.ts'
import type { Reach } from '../../domain/tenants/probes/index.ts'
import { TabibError } from '../../errors.ts'
import { reportFlags, waiversFlag } from '../../flags.ts'

export default class TenantCheck extends TabibCommand<typeof TenantCheck> {
  static override summary = 'Check that a tenant has all it needs before it goes live, or still has it.'
  static override description =
    `Asks every question of the onboarding checklist and tells all that fails, with YAML to paste.
With --file it needs no server: what only running systems can answer is said not to have run. Changes nothing; the
payment webhook is sent two test events, one of them forged.`
  static override examples = [
    '<%= config.bin %> <%= command.id %> herat-markaz',
    '<%= config.bin %> <%= command.id %> --file tenants/*.yaml --output github',
    '<%= config.bin %> <%= command.id %> --all --offline --short',
  ]
  static override args = { tenant: Args.string({ description: 'slug or id, from tenant list' }) }
  static override flags = {
    file: Flags.string({
      multiple: true,
      helpValue: '<file>',
      description: 'check these tenant.yaml files instead, without any server (docs/onboarding.md)',
      exclusive: ['all'],
    }),
    all: Flags.boolean({ description: 'check every tenant' }),
    category: Flags.option({ options: CATEGORIES, multiple: true, multipleNonGreedy: true, delimiter: ',' })({
      description: 'these alone',
    }),
    offline: Flags.boolean({ description: 'ask the database alone: no key store, no server of a tenant' }),
    ...reportFlags,
    waivers: waiversFlag,
  }

  async run(): Promise<void> {
    const { file: files, all, category: categories } = this.flags
    const { tenant: named } = this.args
    if ([named, files, all || undefined].filter((one) => one !== undefined).length !== 1) {
      throw new TabibError('USAGE', 'say which tenant: one by its slug, --file <file>, or --all')
    }
    const subjects = files ? await fromFiles(files) : await this.#stored(named)
    const reach = files || this.flags.offline ? undefined : await this.#reach()
    const { examineTenants } = await import('../../domain/tenants/examine.ts')
    const { rules, findings } = await examineTenants(subjects, { now: new Date(), categories, reach })
    if (subjects.length === 0) this.note('no tenant is registered')
    await this.report({
      check: 'tenant check',
      subject: subjects.length === 1 ? subjects[0]!.tenant.slug : `${subjects.length} tenants`,
      version: this.config.version,
      rules,
      findings,
    })
  }

  async #stored(named: string | undefined): Promise<Subject[]> {
    const { db } = await this.openApp()
    const { readTenants } = await import('../../domain/tenants/read.ts')
    return readTenants(db, named)
  }

  async #reach(): Promise<Reach> {
    const app = await this.openApp()
    const keyStore = app.config.keys.store === undefined ? undefined : () => app.keyStore()
    return { db: app.db, fetch, keyStore }
  }
}

/** @throws TabibError TENANT_INVALID with every problem of every file. */
async function fromFiles(files: readonly string[]): Promise<Subject[]> {
  const [{ readTextFile }, { parseTenant }] = await Promise.all([
    import('../../text-file.ts'),
    import('../../domain/tenants/parse.ts'),
  ])
  const parsed = await Promise.all(
    files.map(async (file) => ({ file, ...parseTenant(await readTextFile(file)) })),
  )
  const problems = parsed.flatMap((one) =>
    one.kind === 'invalid' ? one.problems.map((problem) => ({ file: one.file, ...problem })) : [],
  )
  if (problems.length === 0) {
    return parsed
      .filter((one) => one.kind === 'tenant')
      .map(({ file, tenant, lineOf }) => ({ tenant, locate: (path) => ({ file, line: lineOf(path) }) }))
  }
  const lines = problems.map(({ file, line, path, message }) =>
    [`  ${file}:${line}:`, ...(path === '' ? [] : [`${path}:`]), message].join(' '),
  )
  throw new TabibError(
    'TENANT_INVALID',
    `${problems.length} problem${problems.length === 1 ? '' : 's'} in what should describe a tenant:\n${lines.join('\n')}`,
    { suggestions: ['tabib schema tenant', 'docs/onboarding.md'], context: { problems } },
  )
}
