import { mkdir, readdir, rm, writeFile } from 'node:fs/promises'
import { dirname, join, relative, resolve, sep } from 'node:path'
import { TabibError } from '../../errors.ts'

/** The buckets of the platform. */
export type Bucket = 'attachments' | 'statements'

/** The object store: a folder a bucket. Keys are paths with `/`, and lead nowhere out of their bucket. */
export interface Objects {
  put(bucket: Bucket, key: string, bytes: Uint8Array): Promise<void>
  /** Keys below a prefix that ends with `/`. */
  list(bucket: Bucket, prefix: string): Promise<string[]>
  /** One that is gone already is no error. */
  remove(bucket: Bucket, key: string): Promise<void>
}

/** @throws TabibError, from every call: OBJECTS_UNREACHABLE when the folder cannot be used. */
export function openObjects({ folder }: { folder: string }): Objects {
  const root = resolve(folder)
  const pathOf = (bucket: Bucket, key: string) => {
    const base = join(root, bucket)
    const path = resolve(base, key)
    if (path.startsWith(`${base}${sep}`)) return path
    throw new TabibError('USAGE', `the key ${JSON.stringify(key)} leads out of the bucket ${bucket}`)
  }
  const reached = <T>(work: Promise<T>) =>
    work.catch((cause) => {
      throw new TabibError(
        'OBJECTS_UNREACHABLE',
        `the object store at ${root} cannot be used: ${cause.code}`,
        {
          cause,
          suggestions: [`ls -ld ${root}`],
        },
      )
    })
  return {
    async put(bucket, key, bytes) {
      const path = pathOf(bucket, key)
      await reached(mkdir(dirname(path), { recursive: true, mode: 0o700 }))
      await reached(writeFile(path, bytes, { mode: 0o600 }))
    },
    async list(bucket, prefix) {
      const folder = pathOf(bucket, prefix)
      const entries = await reached(
        readdir(folder, { recursive: true, withFileTypes: true }).catch((cause) => {
          if (cause.code === 'ENOENT') return []
          throw cause
        }),
      )
      return entries
        .filter((entry) => entry.isFile())
        .map((entry) => relative(join(root, bucket), join(entry.parentPath, entry.name)).replaceAll(sep, '/'))
        .sort()
    },
    remove: (bucket, key) => reached(rm(pathOf(bucket, key), { force: true })),
  }
}
