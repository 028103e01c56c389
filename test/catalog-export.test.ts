import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { exportCatalog } from '../src/catalog/export/files.ts'
import { catalog } from '../src/catalog/index.ts'
import { commandLine } from '../src/catalog/status.ts'
import { packageRoot } from '../src/package-root.ts'

interface RuleFile {
  groups: {
    name: string
    rules: {
      alert: string
      expr: string
      labels: Record<string, string>
      annotations: Record<string, string>
    }[]
  }[]
}

const built = catalog.filter((mode) => mode.state === 'built')
const runbookBaseUrl = 'https://ops.example/tabib'
let folder: string
let rules: string
let tests: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tabib-rules-'))
  const file = join(folder, 'tabib.rules.yml')
  const files = exportCatalog(catalog, { output: 'prometheus', file, runbookBaseUrl })
  for (const { path, content } of files) await writeFile(path, content)
  rules = file
  tests = join(folder, 'tabib.rules.test.yml')
})
afterAll(() => rm(folder, { recursive: true, force: true }))

const promtool = (...args: string[]) => execa('promtool', args, { reject: false, all: true })

async function ruleOf(mode: string) {
  const { groups } = parse(await readFile(rules, 'utf8')) as RuleFile
  const found = groups.flatMap((group) => group.rules).find(({ labels }) => labels.mode === mode)
  if (!found) throw new Error(`no rule for ${mode}`)
  return found
}

describe('Prometheus rules', () => {
  test('pass promtool check rules, one rule a built mode', async () => {
    const { all, exitCode } = await promtool('check', 'rules', rules)
    expect(all).toContain(`${built.length} rules found`)
    expect(exitCode, all).toBe(0)
  })

  test('fire beyond their threshold and are quiet on it', async () => {
    const { all, exitCode } = await promtool('test', 'rules', tests)
    expect(all).toContain('SUCCESS')
    expect(exitCode, all).toBe(0)
  })

  test.each([
    ['a higher', '> 30', '> 31'],
    ['a lower', '> 30', '> 29'],
  ])('with %s threshold fail their own tests', async (_, before, after) => {
    const own = await mkdtemp(join(tmpdir(), 'tabib-rules-'))
    const one = catalog.filter(({ id }) => id === 'billing/FM-17')
    const file = join(own, 'one.rules.yml')
    const [rule, ruleTests] = exportCatalog(one, { output: 'prometheus', file, runbookBaseUrl })
    expect(rule!.content).toContain(before)
    await writeFile(rule!.path, rule!.content.replace(before, after))
    await writeFile(ruleTests!.path, ruleTests!.content)
    const { all, exitCode } = await promtool('test', 'rules', ruleTests!.path)
    await rm(own, { recursive: true })
    expect(exitCode).not.toBe(0)
    expect(all).toContain('FAILED')
  })

  test("carry the specification's signal and threshold, a runbook and a command to paste", async () => {
    expect((await ruleOf('billing/FM-17')).expr).toBe('max(billing_outbox_lag_seconds) > 30')
    expect((await ruleOf('communication/C06')).expr).toBe('max(communication_outbox_lag_seconds) > 30')
    expect((await ruleOf('virtual-care/F12')).expr).toBe('max(vcare_outbox_lag_seconds) > 300')
    for (const mode of built) {
      const { labels, annotations } = await ruleOf(mode.id)
      expect(labels.severity).toBe(mode.severity)
      expect(annotations.runbook_url).toMatch(/^https:\/\/ops\.example\/tabib\/runbooks\/.+\/.+\.md$/)
      expect(annotations.command).toBe(commandLine(mode))
    }
  })
})

describe('what is committed under deploy and docs', () => {
  test.each([
    ['prometheus', 'deploy/prometheus/tabib.rules.yml'],
    ['grafana', 'deploy/grafana/tabib.json'],
    ['markdown', 'docs/failure-modes.md'],
  ] as const)('of %s is what the catalog exports now', async (output, path) => {
    const file = join(packageRoot(), path)
    for (const { path, content } of exportCatalog(catalog, { output, file, runbookBaseUrl: '' })) {
      expect(await readFile(path, 'utf8'), `tabib catalog export --output ${output} --file ${path}`).toBe(
        content,
      )
    }
  })
})

describe('JSON and Grafana', () => {
  test('list every mode, and a planned one without a detector', () => {
    const [file] = exportCatalog(catalog, { output: 'json', runbookBaseUrl })
    const modes = JSON.parse(file?.content ?? '') as { id: string; state: string; detect?: object }[]
    expect(modes.map(({ id }) => id)).toEqual(catalog.map(({ id }) => id))
    expect(modes.every(({ state, detect }) => (state === 'built') === (detect !== undefined))).toBe(true)
  })

  test('a panel for each built mode, none over another', () => {
    const [file] = exportCatalog(catalog, { output: 'grafana', runbookBaseUrl })
    const { panels } = JSON.parse(file?.content ?? '') as {
      panels: { id: number; type: string; gridPos: { x: number; y: number; w: number; h: number } }[]
    }
    expect(panels.filter(({ type }) => type === 'timeseries')).toHaveLength(built.length)
    expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length)
    const cells = panels.flatMap(({ gridPos: { x, y, w, h } }) =>
      Array.from({ length: w * h }, (_, i) => `${x + (i % w)},${y + Math.floor(i / w)}`),
    )
    expect(new Set(cells).size).toBe(cells.length)
  })
})
