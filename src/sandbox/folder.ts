import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { rmSync } from 'node:fs'
import { chmod, chown, lstat, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { TabibError } from '../errors.ts'
import { killTree, startTimeOf } from './faults/process.ts'

/** A user on whose behalf a server runs. */
export interface Account {
  uid: number
  gid: number
}

/**
 * One sandbox's place on disk, `<tmpdir>/tabib-sandbox-<uid>/<pid>-<start>-<random>/`. Its name says which process owns
 * it, so that there is no moment at which it has no owner on record.
 */
export interface SandboxFolder extends AsyncDisposable {
  readonly path: string
  /** Makes a folder below it, mode 0700, for `account` when given. */
  make(name: string, account?: Account): Promise<string>
  /** Puts a process on record, so that it is ended even if this one is killed. */
  record(pid: number): Promise<void>
  forget(pid: number): Promise<void>
}

/**
 * Makes a sandbox folder, after ending what killed runs left behind.
 *
 * @throws TabibError SERVER_FAILED when the parent folder belongs to somebody else.
 */
export async function openSandboxFolder(): Promise<SandboxFolder> {
  const base = await openBase()
  await endOrphans(base)
  const path = join(base, `${process.pid}-${startTimeOf(process.pid)}-${randomBytes(3).toString('hex')}`)
  const processes = join(path, 'processes')
  await mkdir(path)
  // Others may pass through to the folder they own, and list nothing on the way.
  await chmod(path, 0o711)
  await mkdir(processes, { mode: 0o700 })

  const recorded = new Set<number>()
  // A process that ends without disposing (process.exit) takes its servers with it.
  const onExit = () => {
    for (const pid of recorded) {
      try {
        process.kill(pid, 'SIGKILL')
      } catch {
        // Already gone.
      }
    }
    try {
      rmSync(path, { recursive: true, force: true })
    } catch {
      // A mounted disk; the next start unmounts it.
    }
  }
  process.once('exit', onExit)

  let disposing: Promise<void> | undefined
  return {
    path,
    async make(name, account) {
      const dir = join(path, name)
      await mkdir(dir, { mode: 0o700 })
      if (account) await chown(dir, account.uid, account.gid)
      return dir
    },
    async record(pid) {
      recorded.add(pid)
      const start = startTimeOf(pid)
      if (start !== undefined) await writeFile(join(processes, `${pid}-${start}`), '')
    },
    async forget(pid) {
      recorded.delete(pid)
      for (const name of await readdir(processes)) {
        if (name.startsWith(`${pid}-`)) await rm(join(processes, name), { force: true })
      }
    },
    [Symbol.asyncDispose]() {
      process.off('exit', onExit)
      disposing ??= clear(path)
      return disposing
    },
  }
}

/** Runs `start` in the folder given, or else in one of its own, which goes when `start` fails or its result is disposed. */
export async function inFolder<S extends AsyncDisposable>(
  given: SandboxFolder | undefined,
  start: (folder: SandboxFolder) => Promise<S>,
): Promise<S> {
  if (given) return start(given)
  const folder = await openSandboxFolder()
  try {
    const started = await start(folder)
    const dispose = started[Symbol.asyncDispose].bind(started)
    started[Symbol.asyncDispose] = async () => {
      await dispose()
      await folder[Symbol.asyncDispose]()
    }
    return started
  } catch (error) {
    await folder[Symbol.asyncDispose]()
    throw error
  }
}

/**
 * Ends the servers of runs that were killed, and removes their folders. A recorded process is ended only if its start
 * time matches too: its pid may belong to somebody else by now.
 *
 * @returns the folders that were removed.
 */
export async function endOrphans(base?: string): Promise<string[]> {
  const parent = base ?? (await openBase())
  const orphaned = (await readdir(parent)).filter((name) => {
    const [pid, start] = name.split('-')
    return startTimeOf(Number(pid)) !== start
  })
  for (const name of orphaned) await clear(join(parent, name))
  return orphaned.map((name) => join(parent, name))
}

async function clear(path: string): Promise<void> {
  for (const name of await readdir(join(path, 'processes')).catch(() => [])) {
    const [pid, start] = name.split('-')
    if (startTimeOf(Number(pid)) === start) await killTree(Number(pid))
  }
  for (const mount of await mountsBelow(path)) {
    await promisify(execFile)('umount', ['-l', mount]).catch(async (error) => {
      // Another start may have done it meanwhile.
      if ((await mountsBelow(path)).includes(mount)) throw error
    })
  }
  await rm(path, { recursive: true, force: true, maxRetries: 5, retryDelay: 50 })
}

async function mountsBelow(path: string): Promise<string[]> {
  const table = await readFile('/proc/self/mounts', 'utf8').catch(() => '')
  return (
    table
      .split('\n')
      // proc_pid_mounts(5): blanks in a path are written in octal.
      .map((line) =>
        (line.split(' ')[1] ?? '').replace(/\\(\d{3})/g, (_, octal) =>
          String.fromCharCode(Number.parseInt(octal, 8)),
        ),
      )
      .filter((mount) => mount.startsWith(`${path}/`))
  )
}

async function openBase(): Promise<string> {
  const { uid } = userInfo()
  const base = join(tmpdir(), `tabib-sandbox-${uid}`)
  await mkdir(base, { mode: 0o711 }).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw error
  })
  // The parent is everybody's: another user may have made this folder, or a link, before us.
  const found = await lstat(base)
  if (!found.isDirectory() || (uid >= 0 && found.uid !== uid)) {
    throw new TabibError('SERVER_FAILED', `${base} belongs to user ${found.uid}, not to you (${uid})`, {
      suggestions: ['TMPDIR=~/.cache tabib up'],
      retryable: false,
    })
  }
  await chmod(base, 0o711)
  return base
}
