import { readFile } from 'node:fs/promises'
import { TabibError } from './errors.ts'

/** A file that somebody named on the command line. @throws TabibError USAGE when it cannot be read. */
export async function readTextFile(path: string): Promise<string> {
  return readFile(path, 'utf8').catch((cause) => {
    throw new TabibError('USAGE', `cannot read ${path}: ${cause.code ?? cause.message}`, { cause })
  })
}
