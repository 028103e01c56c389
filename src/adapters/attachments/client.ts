import { createReadStream } from 'node:fs'
import { mkdir, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { dirname, join, relative, resolve, sep } from 'node:path'
import { TabibError } from '../../errors.ts'

/** Where files lie that were sent in conversations: a folder. Keys are paths with `/`, and lead nowhere out of it. */
export interface Attachments {
  put(key: string, bytes: Uint8Array): Promise<void>
  /** Keys below a prefix that ends with `/`. */
  list(prefix: string): Promise<string[]>
  /** A file and its length in bytes; one that is gone has none. */
  read(key: string): Promise<{ size: number; chunks: AsyncIterable<Uint8Array> }>
  /** One that is gone already is no error. */
  remove(key: string): Promise<void>
}

/** @throws TabibError, from every call: ATTACHMENTS_UNREACHABLE when the folder cannot be used. */
export function openAttachments({ folder }: { folder: string }): Attachments {
  const root = resolve(folder)
  const pathOf = (key: string) => {
    const path = resolve(root, key)
    if (path.startsWith(`${root}${sep}`)) return path
    throw new TabibError('USAGE', `the key ${JSON.stringify(key)} leads out of the attachments`)
  }
  const reached = <T>(work: Promise<T>) =>
    work.catch((cause) => {
      throw new TabibError(
        'ATTACHMENTS_UNREACHABLE',
        `attachments in ${root} cannot be used: ${cause.code}`,
        {
          cause,
          suggestions: [`ls -ld ${root}`],
        },
      )
    })
  return {
    async put(key, bytes) {
      const path = pathOf(key)
      await reached(mkdir(dirname(path), { recursive: true, mode: 0o700 }))
      await reached(writeFile(path, bytes, { mode: 0o600 }))
    },
    async list(prefix) {
      const entries = await reached(
        readdir(pathOf(prefix), { recursive: true, withFileTypes: true }).catch(async (cause) => {
          if (cause.code !== 'ENOENT') throw cause
          // A disk that is not mounted is no folder without files.
          await stat(root)
          return []
        }),
      )
      return entries
        .filter((entry) => entry.isFile())
        .map((entry) => relative(root, join(entry.parentPath, entry.name)).replaceAll(sep, '/'))
        .sort()
    },
    async read(key) {
      const path = pathOf(key)
      const gone = (cause: NodeJS.ErrnoException) => {
        if (cause.code !== 'ENOENT') throw cause
      }
      const size = (await reached(stat(path).catch(gone)))?.size ?? 0
      return { size, chunks: size === 0 ? nothing() : createReadStream(path, { end: size - 1 }) }
    },
    remove: (key) => reached(rm(pathOf(key), { force: true })),
  }
}

async function* nothing(): AsyncGenerator<Uint8Array> {}
