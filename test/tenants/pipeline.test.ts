import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { packageRoot } from '../../src/package-root.ts'

interface Workflow {
  jobs: { check: { steps: { run?: string; if?: string }[] } }
}

const docs = await readFile(join(packageRoot(), 'docs/onboarding.md'), 'utf8')
const [example = '', pipeline = '', waivers = ''] = [...docs.matchAll(/```yaml\n([\s\S]*?)```/g)].map(
  ([, block]) => block,
)
const workflow = parse(pipeline) as Workflow
// What the snippet types, with tabib from this checkout.
const lines = workflow.jobs.check.steps
  .filter(({ run }) => run?.includes('tabib'))
  .map(({ run = '' }) => run.replace('npx tabib', `${process.execPath} ${join(packageRoot(), 'bin/run.js')}`))

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tabib-pipeline-'))
  await mkdir(join(folder, 'tenants'))
  await writeFile(join(folder, 'tenants/herat-markaz.yaml'), example)
  await writeFile(join(folder, 'tenants/waivers.yml'), waivers.replace('2026-03-21', '2999-12-31'))
})
afterEach(() => rm(folder, { recursive: true }))

const edit = (from: string, to: string) => {
  expect(example).toContain(from)
  return writeFile(join(folder, 'tenants/herat-markaz.yaml'), example.replace(from, to))
}
// No server is configured, and none is needed.
const run = (line = '') =>
  execa('bash', ['-ec', line], {
    cwd: folder,
    env: { PATH: process.env.PATH ?? '' },
    extendEnv: false,
    reject: false,
  })

describe('the pipeline of docs/onboarding.md', () => {
  test('types the check twice: for annotations, and for code scanning', () => {
    expect(lines).toHaveLength(2)
  })

  test('passes the document of the same page', async () => {
    const { exitCode, stdout } = await run(lines[0])
    expect(stdout).toMatch(/^tenant check herat-markaz: 1 info, 5 not run, \d+ checks passed$/m)
    expect(exitCode).toBe(0)
  })

  test('annotates what fails at its line, and writes it down for code scanning', async () => {
    await edit('currency: AFN\nlocales', 'locales')
    const { exitCode, stdout } = await run(lines[0])
    expect(exitCode).toBe(1)
    expect(stdout).toMatch(
      /^::error file=tenants\/herat-markaz\.yaml,line=2,title=tenant\/currency-set::herat-markaz: no default currency.*%0Acurrency: AFN$/m,
    )
    expect((await run(lines[1])).exitCode).toBe(0)
    const { runs } = JSON.parse(await readFile(join(folder, 'tenants.sarif'), 'utf8'))
    expect(runs[0].results[0]).toMatchObject({
      ruleId: 'tenant/currency-set',
      locations: [{ physicalLocation: { artifactLocation: { uri: 'tenants/herat-markaz.yaml' } } }],
    })
  })

  test('annotates what cannot be understood, and fails as usage does', async () => {
    await edit('timeZone: Asia/Kabul', 'timezone: Asia/Kabul')
    const { exitCode, stdout, stderr } = await run(lines[0])
    expect(exitCode).toBe(2)
    expect(stdout).toContain('::error file=tenants/herat-markaz.yaml,line=7,title=tenant/document::')
    expect(stderr).toContain('tenants/herat-markaz.yaml:7: timezone: is not known; did you mean timeZone?')
  })

  test('lets through what somebody answers for, until the day', async () => {
    await edit('approvers: [u-shukria, u-navid]', 'approvers: [u-shukria]')
    expect((await run(lines[0])).exitCode).toBe(0)
    await writeFile(join(folder, 'tenants/waivers.yml'), waivers)
    const expired = await run(lines[0])
    expect(expired.exitCode).toBe(1)
    expect(expired.stdout).toContain('title=tenant/refund-approvers::')
    expect(expired.stdout).toContain('title=waiver/expired::')
  })

  test('tells two files of one tenant', async () => {
    await writeFile(join(folder, 'tenants/second.yaml'), example)
    const { exitCode, stderr } = await run(lines[0])
    expect(exitCode).toBe(2)
    expect(stderr).toContain('tenants/second.yaml:2: slug: is that of tenants/herat-markaz.yaml as well')
  })
})

test('asking for no tenant, for two kinds at once, or for one that is not there is told', async () => {
  const check = (...argv: string[]) =>
    execa(process.execPath, [join(packageRoot(), 'bin/run.js'), 'tenant', 'check', ...argv], {
      cwd: folder,
      reject: false,
    })
  const seen = await Promise.all([
    check(),
    check('herat', '--all'),
    check('--file', 'absent.yaml'),
    check('--all', '--category', 'mony'),
  ])
  expect(seen.map(({ exitCode }) => exitCode)).toEqual([2, 2, 2, 2])
  expect(seen.map(({ stderr }) => stderr.split('\n')[0])).toEqual([
    '× say which tenant: one by its slug, --file <file>, or --all (USAGE)',
    '× say which tenant: one by its slug, --file <file>, or --all (USAGE)',
    '× cannot read absent.yaml: ENOENT (USAGE)',
    expect.stringContaining('Expected --category=mony to be one of: money, payment'),
  ])
})
