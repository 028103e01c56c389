import { basename } from 'node:path'
import { toJson } from '../../render.ts'
import type { FailureMode } from '../failure-mode.ts'
import { grafanaDashboard } from './grafana.ts'
import { catalogJson } from './json.ts'
import { catalogMarkdown } from './markdown.ts'
import { prometheusRules, prometheusRuleTests } from './prometheus.ts'

export type ExportFormat = 'prometheus' | 'markdown' | 'json' | 'grafana'

/** What an export writes: the file asked for first; Prometheus rules bring their unit tests with them. */
export function exportCatalog(
  modes: readonly FailureMode[],
  { output, file = '', runbookBaseUrl }: { output: ExportFormat; file?: string; runbookBaseUrl: string },
): { path: string; content: string }[] {
  switch (output) {
    case 'prometheus':
      return [
        { path: file, content: prometheusRules(modes, { runbookBaseUrl }) },
        {
          path: `${file.replace(/\.ya?ml$/, '')}.test.yml`,
          content: prometheusRuleTests(modes, { runbookBaseUrl, ruleFile: basename(file) }),
        },
      ]
    case 'markdown':
      return [{ path: file, content: catalogMarkdown(modes) }]
    case 'json':
      return [{ path: file, content: `${toJson(catalogJson(modes))}\n` }]
    case 'grafana':
      return [{ path: file, content: `${toJson(grafanaDashboard(modes, { runbookBaseUrl }))}\n` }]
  }
}
