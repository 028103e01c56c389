import { type ChildProcess, spawn } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { TabibError } from '../../errors.ts'
import type { SmallDisk } from '../faults/disk.ts'
import { killTree, pauseTree, resumeTree } from '../faults/process.ts'
import { type Link, openLink } from '../faults/proxy.ts'
import type { Account, SandboxFolder } from '../folder.ts'

/** What every private server can suffer. */
export interface Server extends AsyncDisposable {
  /** Port on 127.0.0.1 that the server itself listens on; kept over restarts. */
  readonly port: number
  readonly pid: number
  readonly dir: string
  /** SIGKILL to the server and all its processes; resolves when they are gone. */
  kill(): Promise<void>
  /** SIGSTOP: connections stay open and nobody answers. */
  pause(): Promise<void>
  resume(): Promise<void>
  /** Orderly shutdown, made a SIGKILL for a server that is still there after 5 s. */
  stop(): Promise<void>
  /** Stops it if it runs, and starts it on the same data and port; resolves when it takes connections. */
  restart(): Promise<void>
  /** The last lines that the server wrote. */
  logTail(lines?: number): string
  /** Resolves with the first line since its last start that matches. @throws TabibError SERVER_FAILED when none comes in time. */
  logged(pattern: RegExp, timeoutMs?: number): Promise<string>
  /** The network in front of it. @throws TabibError SERVER_FAILED when it was started without `proxied`. */
  readonly link: Link
  /** Where clients should connect: the link when there is one, else the server itself. */
  readonly clientPort: number
  /** Fills its disk; disposing frees it. @throws TabibError SERVER_FAILED when it was started without `diskMb`. */
  fillDisk(): Promise<AsyncDisposable>
}

/** What the three servers' starts have in common. */
export interface ServerOptions {
  /** Where it lives; a folder of its own when left out, which is then removed with it. */
  folder?: SandboxFolder | undefined
  /** Puts a link in front of it, for faults of the network. */
  proxied?: boolean | undefined
  /** Puts its data on a disk of this many MiB that can be filled (root only). */
  diskMb?: number | undefined
}

export interface ServerProcessOptions {
  name: string
  folder: SandboxFolder
  port: number
  proxied: boolean
  disk: SmallDisk | undefined
  /** Beside PATH, language and time zone. */
  env?: Record<string, string> | undefined
  command: string
  args: string[]
  dir: string
  account?: Account | undefined
  /** The line by which the server says that it takes connections. */
  ready: RegExp
  /** The signal for an orderly shutdown. */
  stopSignal: NodeJS.Signals
  timeoutMs?: number
}

const KEPT_LINES = 400
const STOP_LIMIT_MS = 5_000

/**
 * Starts a server and waits for its own word that it is ready.
 *
 * @throws TabibError SERVER_FAILED with the end of its log when it exits first or says nothing for `timeoutMs` (20 s).
 */
export async function startServerProcess(options: ServerProcessOptions): Promise<Server> {
  const { name, folder, port, dir, disk, timeoutMs = 20_000 } = options
  const log: string[] = []
  const listeners = new Set<(line: string) => void>()
  let child: ChildProcess | undefined
  let exited: Promise<void> = Promise.resolve()

  const logTail = (lines = 20) => log.slice(-lines).join('\n')
  const failed = (what: string) =>
    new TabibError('SERVER_FAILED', `the sandbox's ${name} ${what}; its log ends with:\n${logTail()}`)
  const hear = (line: string) => {
    log.push(line)
    if (log.length > KEPT_LINES) log.shift()
    for (const listener of listeners) listener(line)
  }
  const logged = (pattern: RegExp, limitMs = timeoutMs, ended?: Promise<void>) =>
    new Promise<string>((resolve, reject) => {
      const present = log.find((line) => pattern.test(line))
      if (present !== undefined) return resolve(present)
      const settle = (act: () => void) => {
        clearTimeout(timer)
        listeners.delete(listener)
        act()
      }
      const listener = (line: string) => {
        if (pattern.test(line)) settle(() => resolve(line))
      }
      const timer = setTimeout(
        () => settle(() => reject(failed(`did not log ${pattern} within ${limitMs} ms`))),
        limitMs,
      )
      listeners.add(listener)
      void ended?.then(() => settle(() => reject(failed('exited before it was ready'))))
    })
  const start = async () => {
    log.length = 0
    const started = spawn(options.command, options.args, {
      cwd: dir,
      env: { PATH: process.env.PATH, LC_ALL: 'C', TZ: 'UTC', ...options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
      // A session of its own: Ctrl-C in the terminal is for tabib, which then ends its servers in order.
      detached: true,
      ...options.account,
    })
    child = started
    exited = new Promise((resolve) => {
      started.once('exit', () => resolve())
      started.once('error', (error) => {
        hear(error.message)
        resolve()
      })
    })
    createInterface({ input: started.stdout }).on('line', hear)
    createInterface({ input: started.stderr }).on('line', hear)
    const ready = logged(options.ready, timeoutMs, exited)
    if (started.pid !== undefined) await folder.record(started.pid)
    await ready
  }
  const runningPid = () =>
    child && child.exitCode === null && child.signalCode === null ? child.pid : undefined
  const pid = () => {
    const running = runningPid()
    if (running === undefined) throw failed('is not running')
    return running
  }
  const end = async (how: (pid: number) => Promise<void> | void) => {
    const running = runningPid()
    if (running === undefined) return
    await how(running)
    await exited
    await folder.forget(running)
  }
  const kill = () => end(killTree)
  const stop = () =>
    end(async (running) => {
      resumeTree(running)
      process.kill(running, options.stopSignal)
      // Some never leave on their own: nats-server 2.9.10 hangs once a write has found its disk full.
      const timer = setTimeout(() => child?.kill('SIGKILL'), STOP_LIMIT_MS)
      await exited
      clearTimeout(timer)
    })

  await start().catch(async (error) => {
    await kill()
    throw error
  })
  const link = options.proxied ? await openLink({ targetPort: port }) : undefined
  const missing = (what: string, option: string): never => {
    throw new TabibError('SERVER_FAILED', `the sandbox's ${name} has no ${what}: start it with ${option}`, {
      retryable: false,
    })
  }
  return {
    port,
    dir,
    get pid() {
      return pid()
    },
    kill,
    stop,
    pause: async () => pauseTree(pid()),
    resume: async () => resumeTree(pid()),
    async restart() {
      await stop()
      await start()
    },
    logTail,
    logged,
    get link() {
      return link ?? missing('link', '{ proxied: true }')
    },
    clientPort: link?.port ?? port,
    async fillDisk() {
      if (!disk) return missing('disk of its own', '{ diskMb }')
      await disk.fill()
      return { [Symbol.asyncDispose]: disk.free }
    },
    async [Symbol.asyncDispose]() {
      await link?.[Symbol.asyncDispose]()
      await kill()
    },
  }
}

/**
 * A free port on 127.0.0.1, below the range from which systems take ports for outgoing connections: a server that was
 * killed finds its port free again.
 */
export async function freePort(): Promise<number> {
  for (let attempt = 0; attempt < 100; attempt += 1) {
    const port = randomInt(15_000, 32_000)
    if (await canListen(port)) return port
  }
  throw new TabibError(
    'SERVER_FAILED',
    'found no free port on 127.0.0.1 between 15000 and 32000 in 100 tries',
  )
}

function canListen(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer()
    server.once('error', () => resolve(false))
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
  })
}
