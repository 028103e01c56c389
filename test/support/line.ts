import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { packageRoot } from '../../src/package-root.ts'

/** What a command line printed, each without its last line break. */
export interface Line {
  exitCode: number
  stdout: string
  stderr: string
}

let running = false

const load = createRequire(import.meta.url)('./native-import.cjs') as (
  path: string,
) => Promise<typeof import('../../src/main.ts')>

/**
 * Runs a command line of the built program in this process, from its arguments to its exit code: a start of its own costs
 * half a second of processor time. One at a time; what is killed, fed or run beside another is a process of its own.
 *
 * @param env what the program sees of `TABIB_*`; it sees nothing else of them.
 */
export async function runLine(argv: string[], env: Record<string, string>): Promise<Line> {
  const { runLine: run } = await load(join(packageRoot(), 'dist/main.js'))
  if (running) throw new Error(`${argv.join(' ')} is run while another line is`)
  running = true
  const before = { env: process.env, exitCode: process.exitCode, cwd: process.cwd() }
  const written = { stdout: '', stderr: '' }
  const streams = ['stdout', 'stderr'] as const
  const writes = streams.map((name) => process[name].write)
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith('TABIB_'))
  process.env = { ...Object.fromEntries(inherited), NO_COLOR: '1', ...env }
  process.exitCode = 0
  process.chdir(tmpdir())
  for (const name of streams) {
    process[name].write = ((text: string | Uint8Array, ...more: unknown[]) => {
      written[name] += typeof text === 'string' ? text : Buffer.from(text).toString()
      const done = more.find((one) => typeof one === 'function') as (() => void) | undefined
      done?.()
      return true
    }) as typeof process.stdout.write
  }
  try {
    await run(argv)
    const [stdout, stderr] = streams.map((name) => written[name].replace(/\n$/, '')) as [string, string]
    return { exitCode: Number(process.exitCode ?? 0), stdout, stderr }
  } finally {
    for (const [i, name] of streams.entries()) process[name].write = writes[i]!
    process.env = before.env
    process.exitCode = before.exitCode
    process.chdir(before.cwd)
    running = false
  }
}

/** As `World.tabib`, in this process. */
export async function runJson(
  argv: string[],
  env: Record<string, string>,
  // biome-ignore lint/suspicious/noExplicitAny: an envelope is what the test says of it
): Promise<{ exitCode: number; envelope: any; stderr: string }> {
  const { exitCode, stdout, stderr } = await runLine([...argv, '--json'], env)
  return { exitCode, envelope: JSON.parse(stdout), stderr }
}
