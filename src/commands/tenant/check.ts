import { Args, Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { CATEGORIES } from '../../domain/tenants/check.ts'
import type { Examination, Subject } from '../../domain/tenants/examine.ts'
import type { DocumentProblem } from '../../domain/tenants/parse.ts'
import { TabibError } from '../../errors.ts'
import { reportFlags, waiversFlag } from '../../flags.ts'
import { counted } from '../../render.ts'

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
    const subjects = files ? await this.#fromFiles(files) : await this.#stored(named)
    const [{ examineTenants }, { reachOf }] = await Promise.all([
      import('../../domain/tenants/examine.ts'),
      import('../../domain/tenants/probes/index.ts'),
    ])
    const reach = files || this.flags.offline ? undefined : reachOf(await this.openApp())
    await this.#print(
      subjects.length === 1 ? subjects[0]!.tenant.slug : counted(subjects.length, 'tenant'),
      await examineTenants(subjects, { now: new Date(), categories, reach }),
    )
  }

  #print(subject: string, examination: Examination): Promise<void> {
    return this.report({ check: 'tenant check', subject, version: this.config.version, ...examination })
  }

  async #stored(named: string | undefined): Promise<Subject[]> {
    const { db } = await this.openApp()
    const { readTenants } = await import('../../domain/tenants/read.ts')
    return readTenants(db, named)
  }

  /** @throws TabibError TENANT_INVALID with every problem of every file. */
  async #fromFiles(files: readonly string[]): Promise<Subject[]> {
    const [{ readTextFile }, { parseTenant, tenantInvalid }] = await Promise.all([
      import('../../text-file.ts'),
      import('../../domain/tenants/parse.ts'),
    ])
    const subjects: Subject[] = []
    const problems: (DocumentProblem & { file: string })[] = []
    const fileOf = new Map<string, string>()
    for (const file of files) {
      const parsed = parseTenant(await readTextFile(file))
      if (parsed.kind === 'invalid') {
        problems.push(...parsed.problems.map((problem) => ({ file, ...problem })))
        continue
      }
      const { tenant, document, lineOf } = parsed
      const other = fileOf.get(tenant.slug)
      if (other !== undefined) {
        problems.push({ file, line: lineOf(['slug']), path: 'slug', message: `is that of ${other} as well` })
      }
      fileOf.set(tenant.slug, file)
      subjects.push({ tenant, document, locate: (path) => ({ file, line: lineOf(path) }) })
    }
    if (problems.length === 0) return subjects
    // A pipeline's annotations are wanted most where a file cannot be understood.
    if (this.flags.output !== 'table' && !this.wantsJson) {
      const { documentFindings } = await import('../../domain/tenants/examine.ts')
      await this.#print(files.join(' '), documentFindings(problems))
    }
    throw tenantInvalid(problems)
  }
}
