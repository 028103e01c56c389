import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { packageRoot } from '../package-root.ts'
import type { ModeId } from './failure-mode.ts'
import { specRow } from './spec.ts'

/** The headings of every runbook, in their order. */
export const RUNBOOK_SECTIONS = ['Meaning', 'Impact', 'Diagnosis', 'Mitigation', 'Verification'] as const

/**
 * The runbook's path from the package root, found by its id: `runbooks/billing/fm-17-….md`. Undefined when there is
 * none, as for a planned mode.
 */
export function runbookPath(id: ModeId): string | undefined {
  const [service = '', number = ''] = id.toLowerCase().split('/')
  const folder = join('runbooks', service)
  const names = existsSync(join(packageRoot(), folder)) ? readdirSync(join(packageRoot(), folder)) : []
  const name = names.find(
    (one) => one === `${number}.md` || (one.startsWith(`${number}-`) && one.endsWith('.md')),
  )
  return name && `${folder}/${name}`
}

/** One section of a mode's runbook, without its heading. */
export function runbookSection(id: ModeId, section: (typeof RUNBOOK_SECTIONS)[number]): string | undefined {
  const path = runbookPath(id)
  if (path === undefined) return undefined
  const parts = readFileSync(join(packageRoot(), path), 'utf8').split(/^## /m)
  return parts
    .find((part) => part.startsWith(`${section}\n`))
    ?.slice(section.length)
    .trim()
}

/** What users suffer: the specification's words, or the runbook's for a mode of our own. */
export function impactOf(id: ModeId): string | undefined {
  return specRow(id)?.impact ?? runbookSection(id, 'Impact')?.split('\n\n')[0]?.replaceAll('\n', ' ')
}
