import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { DrillJournal } from './run.ts'

/** Where drills leave their evidence unless told otherwise. */
export const EVIDENCE_DIR = '.tabib/evidence'

/**
 * Writes the evidence of a game day below `dir`: each journal as JSON (`<mode>.<kind>.json`, the newest replaces the
 * one before), `junit.xml` for CI, `drills.md` for people. Returns the files written.
 */
export async function writeEvidence(dir: string, journals: DrillJournal[]): Promise<string[]> {
  await mkdir(dir, { recursive: true })
  const files: string[] = []
  const write = async (name: string, text: string) => {
    const path = join(dir, name)
    await writeFile(path, text)
    files.push(path)
  }
  for (const journal of journals) await write(journalName(journal), `${JSON.stringify(journal, null, 2)}\n`)
  await write('junit.xml', junit(journals))
  await write('drills.md', markdown(journals))
  return files
}

/** The newest drill of a mode on record below `dir`; undefined when there is none. */
export async function lastJournal(dir: string, mode: string): Promise<DrillJournal | undefined> {
  try {
    return JSON.parse(await readFile(join(dir, journalName({ mode, kind: 'drill' })), 'utf8')) as DrillJournal
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}

const journalName = ({ mode, kind }: Pick<DrillJournal, 'mode' | 'kind'>): string =>
  `${mode.toLowerCase().replace('/', '-')}.${kind}.json`

function junit(journals: DrillJournal[]): string {
  const failures = journals.filter(({ passed }) => !passed).length
  const cases = journals.map((journal) => {
    const timeS = journal.steps.at(-1)?.atS ?? 0
    const failed = journal.steps.find(({ ok }) => !ok)
    const open = `  <testcase classname="drill.${escapeXml(journal.kind)}" name="${escapeXml(journal.mode)}" time="${timeS}"`
    if (!failed) return `${open}/>`
    return `${open}>\n    <failure message="${escapeXml(`${failed.name}: ${failed.detail}`)}"/>\n  </testcase>`
  })
  return `<?xml version="1.0" encoding="UTF-8"?>\n<testsuite name="tabib drills" tests="${journals.length}" failures="${failures}">\n${cases.join('\n')}\n</testsuite>\n`
}

function markdown(journals: DrillJournal[]): string {
  const cell = (value: number | null) => (value === null ? '–' : value.toFixed(1))
  const rows = journals.map(
    (journal) =>
      `| ${journal.mode} | ${journal.kind} | ${journal.passed ? 'passed' : 'failed'} | ${cell(journal.detectS)} | ` +
      `${cell(journal.mitigateS)} | ${cell(journal.recoverS)} | ${journal.lost.length} | ${journal.alongside.join(' ')} |`,
  )
  return [
    '# Drills',
    '',
    '| mode | kind | outcome | detect s | mitigate s | recover s | lost | fired along |',
    '|---|---|---|---|---|---|---|---|',
    ...rows,
    '',
  ].join('\n')
}

const escapeXml = (text: string): string =>
  text.replace(/[<>&"']/g, (char) => `&#${char.charCodeAt(0)};`).replace(/[^\P{Cc}\n\t]/gu, '')
