import { catalog } from '../../catalog/index.ts'
import { TabibCommand } from '../../command.ts'
import { mark, renderFindings } from '../../render.ts'

export default class CatalogLint extends TabibCommand<typeof CatalogLint> {
  static override summary = 'Check that cards, runbooks, commands and the specification agree.'
  static override description = 'Exits 1 when they do not. Needs no server.'
  static override examples = ['<%= config.bin %> catalog lint', '<%= config.bin %> catalog lint --json']

  async run(): Promise<void> {
    const { lintCatalog } = await import('../../catalog/lint.ts')
    const { commandProblem } = await import('../../catalog/command-line.ts')
    const { workers } = await import('../../workers/index.ts')
    const findings = await lintCatalog(catalog, {
      commandProblem: (argv) => commandProblem(this.config, argv),
      workers: workers.map(({ name }) => name),
    })
    this.succeed({
      result: { findings, checked: catalog.length },
      status: findings.length > 0 ? 'findings' : 'ok',
      text: () =>
        findings.length > 0
          ? renderFindings(findings, { format: 'table', check: 'catalog lint' })
          : `${mark('ok')} ${catalog.length} modes: cards, runbooks, commands and specification agree`,
    })
  }
}
