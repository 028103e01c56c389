import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { type CommandFinder, commandProblem } from '../src/catalog/command-line.ts'
import { catalog } from '../src/catalog/index.ts'
import { lintCatalog } from '../src/catalog/lint.ts'
import { packageRoot } from '../src/package-root.ts'
import { workers } from '../src/workers/index.ts'
import { runLine } from './support/line.ts'
import { useWorld } from './support/world.ts'

const root = join(packageRoot(), 'runbooks')
const runbooks = readdirSync(root, { recursive: true, encoding: 'utf8' }).filter((path) =>
  path.endsWith('.md'),
)
const text = (path: string) => readFileSync(join(root, path), 'utf8')

const PLACEHOLDER = '019a8f2e-7c00-7000-8000-000000000001'

/** Every line that begins with `tabib`, in a block or on its own, with its placeholders filled in. */
function commandsOf(path: string): string[] {
  return [...text(path).matchAll(/^\s*tabib (.*)$/gm)].map(([, line = '']) =>
    line.replace(/<[a-z-]+-id>/g, PLACEHOLDER).trim(),
  )
}

const commands: CommandFinder = {
  findCommand(id) {
    const path = join(packageRoot(), 'src/commands', `${id.replaceAll(':', '/')}.ts`)
    return existsSync(path) ? { load: async () => (await import(path)).default } : undefined
  },
}

// Relaying and passes of workers may be done twice and have no plan: they are run as they stand.
const CHANGES =
  /^(dlq (redrive|discard)|outbox (replay|reset)|keys (rotate|rollback|revoke)|migrate up|tenant set-currency|isolation restore|prices extend|refunds escalate|ledger reconcile|cluster clocks --step|erasure (replay|reapply))/

describe('a runbook', () => {
  test.each(runbooks)('%s types commands that exist, with flags that they take', async (path) => {
    for (const line of commandsOf(path)) {
      expect(await commandProblem(commands, line.split(/\s+/)), `${path}: tabib ${line}`).toBeUndefined()
    }
  })

  test.each(runbooks)('%s links only files that are there', (path) => {
    for (const [, target = ''] of text(path).matchAll(/\]\(([^)#:]+)\)/g)) {
      expect(runbooks, `${path} links ${target}`).toContain(join(dirname(path), target))
    }
  })

  test.each(runbooks)('%s can be read on a phone: no line of code beyond 110 columns', (path) => {
    for (const [, block = ''] of text(path).matchAll(/```\w+\n(.*?)```/gs)) {
      expect(Math.max(...block.split('\n').map((line) => line.length))).toBeLessThanOrEqual(110)
    }
  })
})

describe('on a platform with a poison event', () => {
  const world = useWorld()
  let quarantineId = ''
  beforeAll(async () => {
    await world().configure({
      residency: { regions: { AF: [] }, clusters: { 'herat-dr': { patroni: ['http://127.0.0.1:14998'] } } },
    })
    await world().produce('billing', { count: 1, type: 'not publishable' })
    await world().tabib(['outbox', 'relay'])
    const [row] = await world().db.query<{ id: string }>('select id from tabib.quarantine')
    quarantineId = row?.id ?? ''
    for (const purpose of ['service-token', 'join-token'])
      await world().tabib(['keys', 'rotate', '--purpose', purpose, '--yes'])
  })

  // There may be something to see (1), and a guard may say that nothing is to be done (5); never misunderstood, never a bug.
  // Those of a Patroni cluster are typed on one, in test/cluster.
  const typed = [...new Set(runbooks.flatMap(commandsOf))].filter(
    (line) => !/^cluster (?!pool|clocks)/.test(line),
  )
  // Those that ask for one mode's status are asked at once: each start of the program would load all of the catalog.
  const statusOf = (line: string) => /^status (\S+\/\S+)(?: --json)?$/.exec(line)?.[1]
  const asked = [...new Set(typed.flatMap((line) => statusOf(line) ?? []))].sort()
  const lines = [...typed.filter((line) => statusOf(line) === undefined), `status ${asked.join(' ')}`].sort()
  test.each(lines)('tabib %s does what the runbook says', { timeout: 60_000 }, async (line) => {
    const argv = line.replace(PLACEHOLDER, quarantineId).split(/\s+/)
    if (CHANGES.test(line) && !argv.includes('--dry-run')) argv.push('--dry-run')
    const { exitCode, stdout } = await runLine(
      [...argv.filter((word) => word !== '--json'), '--json'],
      world().env,
    )
    expect([0, 1, 5], stdout).toContain(exitCode)
  })
})

describe('catalog lint', () => {
  const surroundings = {
    commandProblem: (argv: readonly string[]) => commandProblem(commands, argv),
    workers: workers.map(({ name }) => name),
  }

  test('finds nothing: cards, runbooks, index, commands and specification agree', async () => {
    expect(await lintCatalog(catalog, surroundings)).toEqual([])
  })

  test('finds a card that the specification lacks, and a row that has no card', async () => {
    const planned = catalog.find(({ state }) => state === 'planned')!
    const invented = catalog.map((mode) =>
      mode === planned ? { ...mode, id: 'billing/FM-99' as const } : mode,
    )
    const findings = await lintCatalog(invented, surroundings)
    expect(findings.map(({ object }) => object).sort()).toEqual([planned.id, 'billing/FM-99'].sort())
  })

  test('finds a command that does not parse, a worker that does not exist, and an unknown neighbour', async () => {
    const broken = catalog.map((mode) =>
      mode.state === 'built' && mode.id === 'billing/FM-17'
        ? {
            ...mode,
            mitigate: { worker: 'outbox-relya', command: ['outbox', 'relay', '--servise', 'billing'] },
            detect: { ...mode.detect, entails: ['billing/FM-99' as const] },
          }
        : mode,
    )
    const findings = await lintCatalog(broken, surroundings)
    expect(findings.map(({ id }) => id).sort()).toEqual([
      'catalog/command',
      'catalog/entails',
      'catalog/worker',
    ])
    expect(findings.every(({ object }) => object === 'billing/FM-17')).toBe(true)
  })
})
