import { createRequire } from 'node:module'
import { join } from 'node:path'
import { packageRoot } from '../../src/package-root.ts'

export interface Line {
  exitCode: number
  stdout: string
  stderr: string
}

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
  const before = { env: process.env, exitCode: process.exitCode }
  const written = { stdout: '', stderr: '' }
  const streams = ['stdout', 'stderr'] as const
  const writes = streams.map((name) => process[name].write)
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith('TABIB_'))
  process.env = { ...Object.fromEntries(inherited), NO_COLOR: '1', ...env }
  process.exitCode = 0
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
    return { exitCode: Number(process.exitCode ?? 0), ...written }
  } finally {
    for (const [i, name] of streams.entries()) process[name].write = writes[i]!
    process.env = before.env
    process.exitCode = before.exitCode
  }
}
