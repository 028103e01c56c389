import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import * as z from 'zod'
import { type KeySet, keySetSchema } from './key-set.ts'

/** The last key set of a purpose, where a process finds it that starts while nobody publishes one. */
export interface KeptKeys {
  /** Undefined when there is none that can be read. `ageMs`: since it was published as this. */
  read(): Promise<{ keySet: KeySet; ageMs: number } | undefined>
  /** Replaces it, with the age that it has. Says nothing when that cannot be done: it is of use only when all else fails. */
  keep(keySet: KeySet, ageMs: number): Promise<void>
}

const keptSchema = z.object({ at: z.number(), keySet: keySetSchema })

/** Public keys alone; who can write to the folder can have any key believed, as long as the database is away. */
export function keysKeptIn(folder: string, purpose: string): KeptKeys {
  const file = join(folder, `keys-${purpose}.json`)
  return {
    async read() {
      try {
        const { at, keySet } = keptSchema.parse(JSON.parse(await readFile(file, 'utf8')))
        const ageMs = Date.now() - at
        // Of a clock that was set back nobody knows how old anything is.
        return ageMs < 0 ? undefined : { keySet: keySet as KeySet, ageMs }
      } catch {
        return undefined
      }
    },
    async keep(keySet, ageMs) {
      const draft = `${file}.${process.pid}.draft`
      try {
        await mkdir(folder, { recursive: true, mode: 0o700 })
        await writeFile(draft, JSON.stringify({ at: Date.now() - ageMs, keySet }), { mode: 0o600 })
        await rename(draft, file)
      } catch {
        // The next load keeps its own.
      }
    },
  }
}
