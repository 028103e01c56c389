import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { packageRoot } from '../src/package-root.ts'
import { type Measurement, median, reaches } from './measurement.ts'

const ROUNDS = 31

/**
 * How long tabib takes to start, against Node itself: rounds are interleaved, so that whatever else the machine does
 * hits every case alike, and medians are compared.
 */
export async function run(): Promise<Measurement[]> {
  const tabib = join(packageRoot(), 'bin/run.js')
  const cases = [
    { name: 'node -e 0', argv: ['-e', '0'], target: null },
    { name: 'tabib --version', argv: [tabib, '--version'], target: '<= 2.5' },
    { name: 'tabib dlq redrive --help', argv: [tabib, 'dlq', 'redrive', '--help'], target: '<= 3' },
    { name: 'tabib --help', argv: [tabib, '--help'], target: '<= 3' },
  ]
  const timesMs = new Map<string, number[]>(cases.map(({ name }) => [name, []]))
  for (let round = 0; round < ROUNDS; round++) {
    for (const { name, argv } of cases) timesMs.get(name)?.push(timeOf(argv))
  }
  const base = median(timesMs.get('node -e 0') ?? [])
  return cases.map(({ name, target }) => {
    const value = median(timesMs.get(name) ?? [])
    const ratio = value / base
    return {
      bench: 'cli',
      case: name,
      value: Math.round(value * 10) / 10,
      unit: 'ms',
      against: target === null ? null : 'node -e 0',
      ratio: target === null ? null : Math.round(ratio * 100) / 100,
      target,
      ok: target === null ? null : reaches(ratio, target),
    }
  })
}

function timeOf(argv: string[]): number {
  const startedAt = performance.now()
  const { status, stderr } = spawnSync(process.execPath, argv, { stdio: ['ignore', 'ignore', 'pipe'] })
  if (status !== 0) throw new Error(`${argv.join(' ')} ended with ${status}: ${stderr}`)
  return performance.now() - startedAt
}
