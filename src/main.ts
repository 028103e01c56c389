import { randomUUID } from 'node:crypto'
import { run } from '@oclif/core/run'
import { settings } from '@oclif/core/settings'
import { packageRoot } from './package-root.ts'
import { asTabibError, reportError } from './render.ts'

/**
 * Runs one command line to its end and ends the process. `commands` is where the command files lie when the manifest
 * and the bundle are not to be used.
 */
export async function main(argv: string[], { commands }: { commands?: string } = {}): Promise<never> {
  // `tabib … | head` closes our stdout early, and that is no failure.
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EPIPE') process.exit(process.exitCode ?? 0)
      throw error
    })
  }
  // Under NODE_ENV=test oclif would look for the TypeScript sources of what is already built.
  settings.enableAutoTranspile = false
  try {
    await run(argv, await loadOptions(commands))
  } catch (thrown) {
    if (!isExit(thrown)) {
      const error = asTabibError(thrown)
      process.exitCode = error.exitCode
      reportError(error, { argv, runId: randomUUID() })
    }
  }
  // What a command left open (a socket, a timer) must not keep the caller waiting.
  return process.exit()
}

async function loadOptions(commands: string | undefined) {
  const root = packageRoot()
  if (commands === undefined) return { root }
  const { readFileSync } = await import('node:fs')
  const { join } = await import('node:path')
  const pjson = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  pjson.oclif.commands = commands
  pjson.oclif.hooks = { init: './src/hooks/init.ts' }
  return { root, pjson, ignoreManifest: true, isRoot: true }
}

function isExit(thrown: unknown): boolean {
  return thrown instanceof Error && (thrown as { code?: string }).code === 'EEXIT'
}
