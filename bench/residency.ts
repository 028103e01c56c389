import { spawnSync } from 'node:child_process'
import { loadavg } from 'node:os'
import { join } from 'node:path'
import { loadConfig } from '../src/config.ts'
import { packageRoot } from '../src/package-root.ts'
import { assertSandboxAllowed, createWorld, type World } from '../src/sandbox/world.ts'
import { type Measurement, median, quantile, reaches } from './measurement.ts'

const TENANTS = 10_000
const ROUNDS = 31
const TARGET = '<= 1000'

/**
 * How long `tabib residency gate` takes from typing to exit, for a platform of 10,000 tenants and a real standby cluster:
 * when it allows, when it refuses, and when what it must read hangs. Rounds are interleaved with `node -e 0`.
 */
export async function run(): Promise<Measurement[]> {
  assertSandboxAllowed(loadConfig({ env: process.env, cwd: process.cwd() }))
  await using world = await createWorld()
  await using home = await world.standbyCluster({ scope: 'home', region: 'af-herat' })
  await using abroad = await world.standbyCluster({ scope: 'abroad', region: 'abroad' })
  await world.db.query(
    `insert into tabib.tenant (id, slug, name, region, currency)
     select gen_random_uuid(), 'tenant-' || n, 'Tenant', 'af-herat', 'AFN' from generate_series(1, $1) n`,
    [TENANTS],
  )
  await world.configure({
    residency: {
      regions: { 'af-herat': [], abroad: [] },
      platform: ['127.0.0.1/32'],
      clusters: { home: { patroni: home.urls }, abroad: { patroni: abroad.urls } },
      ...(await world.manifests()),
    },
  })
  await world.tabib(['residency', 'manifest', 'nightly', '--region', 'af-herat', '--key-region', 'af-herat'])

  const gate = (target: string) => [
    join(packageRoot(), 'bin/run.js'),
    'residency',
    'gate',
    '--target',
    target,
  ]
  const timesMs: Record<string, number[]> = { 'node -e 0': [], allowed: [], refused: [] }
  for (let round = 0; round < ROUNDS; round++) {
    timesMs['node -e 0']!.push(timeOf(world, ['-e', '0'], 0))
    timesMs.allowed!.push(timeOf(world, gate('home'), 0))
    timesMs.refused!.push(timeOf(world, gate('abroad'), 5))
  }
  const hanging = async (name: string, server: { pause(): Promise<void>; resume(): Promise<void> }) => {
    await server.pause()
    timesMs[name] = Array.from({ length: 5 }, () => timeOf(world, gate('home'), 5))
    await server.resume()
  }
  await hanging('refused, Patroni hangs', home.members[0]!)
  await hanging('refused, Postgres hangs', world.postgres)

  const base = median(timesMs['node -e 0']!)
  const load = { bench: 'residency', against: null, ratio: null, target: null, ok: null }
  return [
    ...Object.entries(timesMs).map(([name, times]) => measurement(name, times, base)),
    { ...load, case: 'load average', value: Math.round((loadavg()[0] ?? 0) * 100) / 100, unit: '' },
  ]
}

/** The slowest in twenty is what must hold: a gate is asked once. */
function measurement(name: string, times: number[], base: number): Measurement {
  const value = Math.round(quantile(times, 0.95))
  const isBase = name === 'node -e 0'
  return {
    bench: 'residency',
    case: `${name}, p95`,
    value,
    unit: 'ms',
    against: isBase ? null : 'node -e 0 (medians)',
    ratio: isBase ? null : Math.round((median(times) / base) * 100) / 100,
    target: isBase ? null : TARGET,
    ok: isBase ? null : reaches(value, TARGET),
  }
}

function timeOf({ env }: World, argv: string[], wanted: number): number {
  const startedAt = performance.now()
  const { status, stderr } = spawnSync(process.execPath, argv, {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const tookMs = performance.now() - startedAt
  if (status !== wanted) throw new Error(`${argv.join(' ')} ended with ${status}: ${stderr}`)
  return tookMs
}
