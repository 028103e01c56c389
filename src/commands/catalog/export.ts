import { Flags } from '@oclif/core'
import { catalog } from '../../catalog/index.ts'
import { TabibCommand } from '../../command.ts'

export default class CatalogExport extends TabibCommand<typeof CatalogExport> {
  static override summary = 'Write the catalog as Prometheus rules, Markdown, JSON or a Grafana dashboard.'
  static override description =
    'Prints to stdout, or writes --file. Beside a file of Prometheus rules, NAME.test.yml holds their unit tests for `promtool test rules`. ' +
    'Runbook links begin with runbookBaseUrl of tabib.yaml.'
  static override examples = [
    '<%= config.bin %> catalog export --output prometheus --file deploy/prometheus/tabib.rules.yml',
    '<%= config.bin %> catalog export --output markdown',
  ]
  static override flags = {
    output: Flags.option({
      options: ['prometheus', 'markdown', 'json', 'grafana'] as const,
      required: true,
      description: 'format',
    })(),
    file: Flags.string({ helpValue: '<path>', description: 'write this file instead of stdout' }),
  }

  async run(): Promise<void> {
    const { runbookBaseUrl } = await this.loadConfig()
    const { exportCatalog } = await import('../../catalog/export/files.ts')
    const { output, file } = this.flags
    const files = exportCatalog(catalog, { output, runbookBaseUrl, ...(file === undefined ? {} : { file }) })
    if (file === undefined) {
      const [only] = files
      // Without a file the exported text is the data; a second document on stdout would not be readable.
      this.succeed({ result: { output, content: only?.content }, text: () => only?.content.trimEnd() ?? '' })
      return
    }
    const { mkdir, writeFile } = await import('node:fs/promises')
    const { dirname } = await import('node:path')
    for (const { path, content } of files) {
      await mkdir(dirname(path), { recursive: true })
      await writeFile(path, content)
    }
    const written = files.map(({ path }) => path)
    this.succeed({ result: { output, files: written }, text: () => written.join('\n') })
  }
}
