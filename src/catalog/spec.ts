import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { TabibError } from '../errors.ts'
import { packageRoot } from '../package-root.ts'

/** One row (or section) of the given specification, word for word. Columns that its table lacks are undefined. */
export interface SpecRow {
  /** As the catalog spells it: `billing/FM-02`, `communication/SLO`, `sync/3`. */
  id: string
  service: 'billing' | 'communication' | 'virtual-care' | 'sync'
  failure: string
  trigger?: string
  impact?: string
  detection?: string
  mitigation?: string
  /** A section's prose, for the rows that stand in no table. */
  text?: string
}

const FILES = {
  'virtual-care': 'virtual-care-failure-modes.md',
  billing: 'billing-failure-modes.md',
  communication: 'communication-failure-modes.md',
} as const

let rows: Map<string, SpecRow> | undefined

/** Every row of `docs/spec/`: 22 of billing, 20 and the error budget of communication, 14 of virtual care, 5 of sync. */
export function specRows(): ReadonlyMap<string, SpecRow> {
  rows ??= new Map([...tables(), errorBudget(), ...syncSections()].map((row) => [row.id, row]))
  return rows
}

/** The specification's own words on a mode; undefined for our own (`tabib/…`), which it does not know. */
export function specRow(id: string): SpecRow | undefined {
  return specRows().get(id)
}

function tables(): SpecRow[] {
  return Object.entries(FILES).flatMap(([service, file]) => {
    const lines = read(file).split('\n')
    const header = lines.findIndex((line) => line.startsWith('| # |'))
    const columns = cells(lines[header] ?? '').map((name) => name.toLowerCase())
    const cell = (values: string[], name: string) => values[columns.indexOf(name)]
    return lines
      .slice(header + 2)
      .filter((line) => line.startsWith('|'))
      .map((line) => {
        const values = cells(line)
        return row({
          id: `${service}/${values[0]}`,
          service: service as SpecRow['service'],
          failure: cell(values, 'failure') ?? '',
          trigger: cell(values, 'trigger'),
          impact: cell(values, 'user impact'),
          detection: cell(values, 'detection'),
          mitigation: cell(values, 'mitigation'),
        })
      })
  })
}

function errorBudget(): SpecRow {
  const section = sections(read(FILES.communication)).find(({ title }) => title === 'Error budget policy')
  if (!section) throw new TabibError('BUG', `${FILES.communication} has no section "Error budget policy"`)
  // The policy is one sentence, "If <detection>, <mitigation>.", and a card shows its two halves.
  const text = section.text.replace(/^- /, '')
  const [, detection, mitigation] = /^If (.*), (.*)\.$/.exec(text) ?? []
  return row({
    id: 'communication/SLO',
    service: 'communication',
    failure: section.title,
    detection,
    mitigation,
    text,
  })
}

function syncSections(): SpecRow[] {
  return sections(read('virtual-care-sync-contract.md')).map(({ number, title, text }) =>
    row({ id: `sync/${number}`, service: 'sync', failure: title, text }),
  )
}

function sections(markdown: string): { number: string; title: string; text: string }[] {
  return markdown
    .split(/^## /m)
    .slice(1)
    .map((part) => {
      const [, number = '', title = ''] = /^(\d+)\. (.*)$/m.exec(part) ?? []
      return { number, title, text: part.slice(part.indexOf('\n')).trim() }
    })
}

const cells = (line: string): string[] =>
  line
    .split('|')
    .slice(1, -1)
    .map((cell) => cell.trim())

const read = (file: string): string => readFileSync(join(packageRoot(), 'docs/spec', file), 'utf8')

function row(values: { [K in keyof SpecRow]: SpecRow[K] | undefined }): SpecRow {
  return Object.fromEntries(
    Object.entries(values).filter(([, value]) => value !== undefined),
  ) as unknown as SpecRow
}
