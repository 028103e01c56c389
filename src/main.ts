import type { Interfaces } from '@oclif/core'
import { run } from '@oclif/core/run'
import { settings } from '@oclif/core/settings'
import { packageRoot } from './package-root.ts'
import { asTabibError, reportError } from './render.ts'

/** Runs one command line to its end and ends the process. */
export async function main(argv: string[], options?: Interfaces.LoadOptions): Promise<never> {
  // `tabib … | head` closes our stdout early, and that is no failure.
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EPIPE') process.exit(process.exitCode ?? 0)
      throw error
    })
  }
  await runLine(argv, options)
  // What a command left open (a socket, a timer) must not keep the caller waiting.
  return process.exit()
}

/** Runs one command line to its end; `process.exitCode` is what it ends with. */
export async function runLine(
  argv: string[],
  options: Interfaces.LoadOptions = { root: packageRoot() },
): Promise<void> {
  // Under NODE_ENV=test oclif would look for the TypeScript sources of what is already built.
  settings.enableAutoTranspile = false
  const [first, ...rest] = argv
  try {
    await run(first === 'help' ? [...rest, '--help'] : argv, options)
  } catch (thrown) {
    if (isExit(thrown)) return
    const error = asTabibError(thrown)
    process.exitCode = error.exitCode
    reportError(error, { argv, runId: crypto.randomUUID() })
  }
}

function isExit(thrown: unknown): boolean {
  return thrown instanceof Error && (thrown as { code?: string }).code === 'EEXIT'
}
