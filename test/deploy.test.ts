import { cp, mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Parser } from '@oclif/core'
import { execa } from 'execa'
import { describe, expect, test } from 'vitest'
import { parse, parseAllDocuments } from 'yaml'
import ApiRun from '../src/commands/api/run.ts'
import WorkerRun from '../src/commands/worker/run.ts'
import { packageRoot } from '../src/package-root.ts'
import { findWorker } from '../src/workers/index.ts'

const deploy = (...path: string[]) => join(packageRoot(), 'deploy', ...path)

/** Parses what a unit or a pod would run, as the command itself does. @throws on an unknown flag, worker or command. */
async function parseCommand(argv: string[]): Promise<void> {
  if (argv[0] === 'api') {
    expect(argv[1]).toBe('run')
    await Parser.parse(argv.slice(2), { flags: { ...ApiRun.baseFlags, ...ApiRun.flags }, strict: true })
    return
  }
  expect(argv.slice(0, 2)).toEqual(['worker', 'run'])
  const { baseFlags, flags, args } = WorkerRun
  const parsed = await Parser.parse(argv.slice(2), { flags: { ...baseFlags, ...flags }, args, strict: true })
  const names = (parsed.args.name ?? []) as string[]
  expect(names.length > 0 || parsed.flags.all).toBe(true)
  for (const name of names) findWorker(name)
}

interface PodSpec {
  automountServiceAccountToken: boolean
  terminationGracePeriodSeconds: number
  securityContext: { runAsNonRoot: boolean; runAsUser: number }
  containers: {
    args: string[]
    resources: { limits: { cpu: string; memory: string } }
    securityContext: {
      allowPrivilegeEscalation: boolean
      readOnlyRootFilesystem: boolean
      capabilities: { drop: string[] }
    }
    livenessProbe?: { httpGet: { path: string } }
    readinessProbe?: { httpGet: { path: string } }
  }[]
}

type Template = { template: { spec: PodSpec } }

/** The pod of a file that holds one Deployment or CronJob. */
async function podOf(file: string): Promise<PodSpec> {
  const documents = parseAllDocuments(await readFile(deploy('kubernetes', file), 'utf8'), { strict: true })
  expect(documents).toHaveLength(1)
  expect(documents.flatMap(({ errors }) => errors)).toEqual([])
  const { spec } = documents[0]!.toJS() as { spec: Template | { jobTemplate: { spec: Template } } }
  return ('jobTemplate' in spec ? spec.jobTemplate.spec : spec).template.spec
}

describe.each(['worker.yaml', 'api.yaml', 'once.yaml'])('kubernetes/%s', (file) => {
  test('runs a command that tabib knows', async () => {
    for (const { args } of (await podOf(file)).containers) await parseCommand(args)
  })

  test('asks for no privilege, and has limits', async () => {
    const { automountServiceAccountToken, securityContext, containers } = await podOf(file)
    expect(automountServiceAccountToken).toBe(false)
    expect(securityContext.runAsNonRoot).toBe(true)
    for (const container of containers) {
      expect(container.securityContext).toEqual({
        allowPrivilegeEscalation: false,
        readOnlyRootFilesystem: true,
        capabilities: { drop: ['ALL'] },
      })
      expect(Object.keys(container.resources.limits)).toEqual(['cpu', 'memory'])
    }
  })
})

test.each(['worker.yaml', 'api.yaml'])('the pod of %s is probed where it answers', async (file) => {
  const [container] = (await podOf(file)).containers
  expect(container?.livenessProbe?.httpGet.path).toBe('/livez')
  expect(container?.readinessProbe?.httpGet.path).toBe('/readyz')
  expect(container?.args).toContain('0.0.0.0')
})

const units = await readdir(deploy('systemd'))
const instanceOf = (unit: string) => unit.replace('@', '@outbox-retention')

test.each(units.filter((unit) => unit.endsWith('.service')))(
  '%s runs a command that tabib knows',
  async (unit) => {
    const text = await readFile(deploy('systemd', unit), 'utf8')
    const [, line = ''] = /^ExecStart=\/usr\/bin\/env tabib (.+)$/m.exec(text) ?? []
    await parseCommand(line.replaceAll('%i', 'outbox-retention').split(' '))
  },
)

const systemd = await execa('systemd-analyze', ['--version'], { reject: false })

test.runIf(systemd.exitCode === 0)('systemd accepts every unit without a word', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tabib-units-'))
  try {
    for (const unit of units) await cp(deploy('systemd', unit), join(folder, instanceOf(unit)))
    const paths = units.map((unit) => join(folder, instanceOf(unit)))
    const { exitCode, stderr } = await execa('systemd-analyze', ['verify', ...paths], { reject: false })
    const ours = stderr.split('\n').filter((line) => line.includes('tabib'))
    expect({ exitCode, ours }).toEqual({ exitCode: 0, ours: [] })
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
})

test.each(units.filter((unit) => unit.endsWith('.service')))(
  '%s waits until the clock is set',
  async (unit) => {
    const text = await readFile(deploy('systemd', unit), 'utf8')
    for (const setting of ['Wants', 'After'])
      expect(text).toMatch(new RegExp(`^${setting}=.*time-sync\\.target`, 'm'))
  },
)

test('development servers listen on loopback alone, and Redis evicts nothing', async () => {
  const { services } = parse(await readFile(deploy('compose.yaml'), 'utf8')) as {
    services: Record<string, { ports: string[]; command?: string[] }>
  }
  expect(Object.keys(services)).toEqual(['postgres', 'nats', 'redis'])
  for (const { ports } of Object.values(services))
    for (const port of ports) expect(port).toMatch(/^127\.0\.0\.1:/)
  expect(services.redis?.command).toContain('noeviction')
  expect(services.nats?.command).toContain('--jetstream')
})

test('the image runs a command that tabib knows, as nobody, built without what rehearses', async () => {
  const text = await readFile(deploy('Dockerfile'), 'utf8')
  const [, command = '[]'] = /^CMD (.+)$/m.exec(text) ?? []
  await parseCommand(JSON.parse(command) as string[])
  expect(text).toMatch(/^USER 65532:65532$/m)
  expect(text).toContain('scripts/build.js --production')
})
