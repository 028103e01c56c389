import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { build } from 'esbuild'
import { packageRoot } from '../src/package-root.ts'
import { requirePrograms } from '../src/sandbox/servers/find.ts'
import { type Measurement, median, reaches } from './measurement.ts'

// They are installed for the run alone: a fifth of a gigabyte that nothing else needs.
const PEERS = {
  pdfmake: '0.3.11',
  '@react-pdf/renderer': '4.9.0',
  react: '19.2.0',
  '@myriaddreamin/typst-ts-node-compiler': '0.7.0',
  'puppeteer-core': '24.24.0',
}
const ENGINE = join(packageRoot(), 'node_modules/.cache/tabib-bench-statements.mjs')
const ROUNDS = 3
const LARGE = 100_000
/** Engine, statements a round, after the warm-up (engine.ts), which is the same for all. */
const ENGINES = {
  plain: 300,
  untagged: 300,
  tagged: 300,
  typst: 60,
  chromium: 20,
  pdfmake: 40,
  'react-pdf': 20,
}

interface Usage {
  /** A statement. */
  cpuS: number
  rssMib: number
}

/**
 * What a statement of 40 right-to-left lines costs, and an account of 100,000, against plain left-to-right pdfkit and
 * against what else makes PDFs; each engine in a process of its own, rounds interleaved, CPU time with all children's.
 * Peers whose packages cannot be had are left out and said to be.
 */
export async function run(): Promise<Measurement[]> {
  await requirePrograms(['chromium'])
  const folder = mkdtempSync(join(tmpdir(), 'tabib-bench-'))
  try {
    writeFileSync(join(folder, 'package.json'), JSON.stringify({ private: true, dependencies: PEERS }))
    execFileSync('npm', ['install', '--no-audit', '--no-fund', '--silent'], { cwd: folder, stdio: 'inherit' })
    // As it is shipped: bundled, beside its dependencies.
    await build({
      entryPoints: [join(packageRoot(), 'bench/statements/engine.ts')],
      outfile: ENGINE,
      bundle: true,
      keepNames: true,
      platform: 'node',
      format: 'esm',
      packages: 'external',
    })
    return measure(folder)
  } finally {
    rmSync(ENGINE, { force: true })
    rmSync(folder, { recursive: true, force: true })
  }
}

function measure(folder: string): Measurement[] {
  const before = loadavg()[0] ?? 0
  const usages: Record<string, Usage[]> = {}
  for (let round = 0; round < ROUNDS; round++) {
    for (const [engine, count] of Object.entries(ENGINES)) {
      const usage = usageOf(folder, engine, count, 40)
      if (usage === undefined) continue
      usages[engine] = [...(usages[engine] ?? []), usage]
    }
  }
  const cpuMs = (engine: string) => median((usages[engine] ?? []).map(({ cpuS }) => cpuS * 1_000))
  const cheaper = (engine: string, target: string) => {
    const ratio = cpuMs(engine) / cpuMs('tagged')
    return Number.isNaN(ratio)
      ? plain(`40 lines: ${engine} could not be run`, 0, '')
      : judged(`40 lines: ${engine}`, cpuMs(engine), 'ms CPU', 'tagged', ratio, target)
  }
  const large = (engine: string) => usageOf(folder, engine, 1, LARGE)
  const [largeUntagged, largeTagged] = [large('untagged'), large('tagged')]
  return [
    plain('40 lines: plain pdfkit', cpuMs('plain'), 'ms CPU'),
    ...(['untagged', 'tagged'] as const).map((engine) => {
      const target = engine === 'tagged' ? '<= 2.2' : '<= 1.8'
      return judged(
        `40 lines: ${engine}`,
        cpuMs(engine),
        'ms CPU',
        'plain pdfkit',
        cpuMs(engine) / cpuMs('plain'),
        target,
      )
    }),
    plain('40 lines: tagged, a core', 1_000 / cpuMs('tagged'), 'statements/s'),
    cheaper('typst', '>= 2'),
    cheaper('chromium', '>= 5'),
    cheaper('pdfmake', '>= 5'),
    cheaper('react-pdf', '>= 14'),
    ...Object.entries(usages).map(([engine, all]) =>
      plain(`40 lines: ${engine}, most memory`, median(all.map(({ rssMib }) => rssMib)), 'MiB'),
    ),
    limited(`100,000 lines: untagged, most memory`, largeUntagged?.rssMib, '<= 200'),
    limited(`100,000 lines: tagged, most memory`, largeTagged?.rssMib, '<= 400'),
    plain('100,000 lines: tagged', largeTagged?.cpuS ?? 0, 's CPU'),
    plain('load average before', before, ''),
    plain('load average after', loadavg()[0] ?? 0, ''),
  ]
}

function usageOf(folder: string, engine: string, statements: number, lines: number): Usage | undefined {
  const argv = [ENGINE, engine, String(statements), String(lines), folder]
  try {
    // Some say on stderr what they miss, for each document.
    const stdio: ('ignore' | 'pipe')[] = ['ignore', 'pipe', 'ignore']
    const output = execFileSync(process.execPath, argv, { cwd: packageRoot(), encoding: 'utf8', stdio })
    return JSON.parse(output) as Usage
  } catch (error) {
    process.stderr.write(`${engine} could not be run: ${(error as Error).message.split('\n')[0]}\n`)
    return undefined
  }
}

const rounded = (value: number) => Math.round(value * 100) / 100
const NO_TARGET = { against: null, ratio: null, target: null, ok: null }

function plain(name: string, value: number, unit: string): Measurement {
  return { bench: 'statements', case: name, value: rounded(value), unit, ...NO_TARGET }
}

function limited(name: string, value = Number.NaN, target: string): Measurement {
  return { ...plain(name, value, 'MiB'), target, ok: reaches(value, target) }
}

function judged(
  name: string,
  value: number,
  unit: string,
  against: string,
  ratio: number,
  target: string,
): Measurement {
  return { ...plain(name, value, unit), against, ratio: rounded(ratio), target, ok: reaches(ratio, target) }
}
