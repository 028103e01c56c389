import { execFile, fork } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { packageRoot } from '../../package-root.ts'

/** How a held process ended: on its own, of the memory it took, or because it was killed from here or elsewhere. */
export interface Ending {
  cause: 'exit' | 'memory' | 'killed' | 'crash' | 'signal'
  /** The most resident memory that was seen. */
  rssMib: number
}

/** A process of our own that may not take more memory than it was given. */
export interface HeldProcess<In extends object, Out extends object> {
  readonly pid: number
  send(message: In): void
  /** Who hears what it says from now on; undefined for nobody. */
  hear(listener: ((message: Out) => void) | undefined): void
  /** Resident memory now. */
  rssMib(): number
  /** SIGKILL. */
  kill(): void
  readonly ended: Promise<Ending>
}

const SAMPLE_MS = 20
// What V8 ends a process with when its heap is full (SIGABRT), as a signal and as a shell's code.
const ABORTED = 134

/**
 * Starts one of tabib's own modules in a process that is killed as soon as its resident set is above `limitMib`: a limit of
 * V8's heap alone leaves out what lies in buffers. The heap is limited to half of it, so that garbage is collected
 * in time. A process of its own, it ends with this one.
 * @param module Its path below `src` or `dist`, without suffix.
 */
export function startHeldProcess<In extends object, Out extends object>(
  module: string,
  { limitMib }: { limitMib: number },
): HeldProcess<In, Out> {
  const fromSource = import.meta.url.endsWith('.ts')
  const [folder, suffix] = fromSource ? ['src', 'ts'] : ['dist', 'js']
  const child = fork(join(packageRoot(), folder, `${module}.${suffix}`), {
    execArgv: [
      `--max-old-space-size=${Math.ceil(limitMib / 2)}`,
      ...(fromSource ? ['--import', createRequire(import.meta.url).resolve('tsx')] : []),
    ],
    serialization: 'advanced',
    // V8 writes a page about a full heap.
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
  })
  const pid = child.pid ?? 0
  let mostMib = 0
  let killed: Ending['cause'] | undefined
  const sample = (): number => {
    const rssMib = residentMib(pid)
    mostMib = Math.max(mostMib, rssMib)
    if (rssMib > limitMib && killed === undefined) {
      killed = 'memory'
      child.kill('SIGKILL')
    }
    return rssMib
  }
  const sampler = setInterval(sample, SAMPLE_MS)
  const ended = new Promise<Ending>((resolve) => {
    const end = (cause: Ending['cause']) => {
      clearInterval(sampler)
      resolve({ cause, rssMib: Math.round(mostMib) })
    }
    child.once('error', () => end('crash'))
    child.once('exit', (code, signal) => {
      if (killed !== undefined) end(killed)
      else if (signal === 'SIGABRT' || code === ABORTED) end('memory')
      else if (signal !== null) end('signal')
      else end(code === 0 ? 'exit' : 'crash')
    })
  })
  return {
    pid,
    // Whoever is gone hears nothing, and `ended` tells.
    send: (message) => void child.send(message, () => {}),
    hear(listener) {
      child.removeAllListeners('message')
      if (listener) child.on('message', (message) => listener(message as Out))
    },
    rssMib: sample,
    kill() {
      killed ??= 'killed'
      child.kill('SIGKILL')
    },
    ended,
  }
}

/** VmRSS of a process (proc(5)); 0 for one that is gone. Elsewhere than on Linux what `ps` said last. */
function residentMib(pid: number): number {
  if (process.platform !== 'linux') return residentByPs(pid)
  try {
    const kib = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]
    return Number(kib ?? 0) / 1_024
  } catch {
    return 0
  }
}

const told = new Map<number, number>()
const asking = new Set<number>()

function residentByPs(pid: number): number {
  if (!asking.has(pid)) {
    asking.add(pid)
    execFile('ps', ['-o', 'rss=', '-p', String(pid)], (_, stdout) => {
      asking.delete(pid)
      told.set(pid, Number(stdout) / 1_024 || 0)
    })
  }
  return told.get(pid) ?? 0
}
