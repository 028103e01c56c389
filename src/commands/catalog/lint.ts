import { catalog } from '../../catalog/index.ts'
import { TabibCommand } from '../../command.ts'
import { reportFlags } from '../../flags.ts'

export default class CatalogLint extends TabibCommand<typeof CatalogLint> {
  static override summary = 'Check that cards, runbooks, commands and the specification agree.'
  static override description = 'Exits 1 when they do not. Needs no server.'
  static override examples = [
    '<%= config.bin %> catalog lint',
    '<%= config.bin %> catalog lint --output github',
  ]
  static override flags = reportFlags

  async run(): Promise<void> {
    const { LINT_RULES, lintCatalog } = await import('../../catalog/lint.ts')
    const { commandProblem } = await import('../../catalog/command-line.ts')
    const { workers } = await import('../../workers/index.ts')
    const findings = await lintCatalog(catalog, {
      commandProblem: (argv) => commandProblem(this.config, argv),
      workers: workers.map(({ name }) => name),
    })
    await this.report({
      check: 'catalog lint',
      subject: `${catalog.length} modes`,
      version: this.config.version,
      rules: LINT_RULES,
      findings,
    })
  }
}
