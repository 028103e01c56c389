import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { access, constants, mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { TabibError } from '../../errors.ts'
import type { StatementStore } from './client.ts'

// No draft is written to more seldom.
const DRAFT_LIFE_MS = 3_600_000

/** Statements as files below a folder, which only this process's user can read. */
export async function openFileStore(folder: string): Promise<StatementStore> {
  const root = resolve(folder)
  const drafts = join(root, '.drafts')
  const guarded = async <T>(work: () => Promise<T>): Promise<T> => {
    try {
      return await work()
    } catch (cause) {
      throw storeFailure(root, cause)
    }
  }
  await guarded(async () => {
    if (folder === '') throw new TabibError('CONFIG_INVALID', 'file: names no folder')
    // Its parent must be there: a volume that is not mounted is no place for statements.
    await makeFolder(root)
    await openDrafts(drafts)
  })
  const pathOf = (key: string) => {
    // Keys are made of ids; whatever else came in could lead out of the folder.
    if (!/^[\w-]+(\/[\w-]+)*\.pdf$/.test(key)) throw new TabibError('BUG', `"${key}" is no statement's key`)
    return join(root, key)
  }
  const find: StatementStore['find'] = (key) => guarded(() => digestOf(pathOf(key)))
  return {
    drafts,
    clearDrafts: (prefix) => guarded(() => clearDrafts(drafts, prefix)),
    find,
    async put(key, draft) {
      const found = await find(key)
      if (found?.sha256 === draft.sha256) return { written: false }
      await guarded(async () => {
        const path = pathOf(key)
        await sync(draft.path)
        const made = await mkdir(dirname(path), { recursive: true, mode: 0o700 })
        await rename(draft.path, path)
        // The name, and the names of folders that are new, lie in the folder above each.
        const highest = made === undefined ? dirname(path) : dirname(made)
        for (let one = dirname(path); one.length >= highest.length; one = dirname(one)) await sync(one)
      })
      return { written: true }
    },
    remove: (key) => guarded(() => rm(pathOf(key), { force: true })),
  }
}

/** What a folder refused, as the error that is shown. */
export function storeFailure(where: string, cause: unknown): unknown {
  const { code } = cause as NodeJS.ErrnoException
  if (cause instanceof TabibError || typeof code !== 'string') return cause
  const why = {
    ENOSPC: 'no space is left',
    EDQUOT: 'the quota is used up',
    EACCES: 'permission denied',
    EROFS: 'it is read-only',
  }[code]
  return new TabibError(
    'STATEMENT_STORE_UNREACHABLE',
    `the statement store at ${where} cannot be used: ${why === undefined ? code : `${why} (${code})`}`,
    { cause, suggestions: [code === 'ENOSPC' ? `df -h ${where}` : `ls -ld ${where}`] },
  )
}

async function digestOf(path: string): Promise<{ sha256: string; bytes: number } | undefined> {
  const hash = createHash('sha256')
  try {
    await pipeline(createReadStream(path), hash)
    return { sha256: hash.digest('hex'), bytes: (await stat(path)).size }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}

async function sync(path: string): Promise<void> {
  const handle = await open(path, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

async function makeFolder(path: string): Promise<void> {
  await mkdir(path, { mode: 0o700 }).catch((error) => {
    if (error.code !== 'EEXIST') throw error
  })
}

/** Makes a folder for drafts, and removes what was left in it long ago. Drafts hold what statements hold. */
export async function openDrafts(folder: string): Promise<void> {
  await makeFolder(folder)
  const { uid, mode } = await stat(folder)
  // In a place that all share somebody else may have made it first.
  if (uid !== process.getuid?.() || (mode & 0o077) !== 0) {
    throw Object.assign(new Error(`${folder} is somebody else's`), { code: 'EACCES' })
  }
  await access(folder, constants.W_OK)
  for (const name of await readdir(folder)) {
    const path = join(folder, name)
    const found = await stat(path).catch(() => undefined)
    if (found && Date.now() - found.mtimeMs > DRAFT_LIFE_MS) await rm(path, { force: true })
  }
}

export async function clearDrafts(folder: string, prefix: string): Promise<void> {
  const left = (await readdir(folder)).filter((name) => name.startsWith(prefix))
  for (const name of left) await rm(join(folder, name), { force: true })
}
