import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { TabibError } from '../../errors.ts'

interface ProcessEntry {
  pid: number
  parent: number
  zombie: boolean
  /** When it started, in the system's own words: only ever compared for equality. */
  start: string
}

/** When the process started, as one word; undefined when there is none. Together with the pid it names one process. */
export function startTimeOf(pid: number): string | undefined {
  const entry = readProcess(pid)
  return entry && !entry.zombie ? entry.start : undefined
}

/** SIGKILL to a process and its descendants; resolves when all of them are gone. */
export async function killTree(pid: number): Promise<void> {
  const pids = stopTree(pid)
  for (const one of pids) send(one, 'SIGKILL')
  await gone(pids)
}

/** SIGSTOP to a process and its descendants: sockets stay open and nobody answers. */
export function pauseTree(pid: number): void {
  stopTree(pid)
}

/** SIGCONT to a process and its descendants. */
export function resumeTree(pid: number): void {
  for (const one of processTree(pid).reverse()) send(one, 'SIGCONT')
}

/**
 * Which of several processes, or a descendant of it, has the TCP connection that comes from `port` on 127.0.0.1. Undefined where
 * none has, or the system does not tell (only Linux does, of processes that this one may look into).
 */
export function ownerOfConnection(
  port: number,
  owners: Iterable<{ name: string; pids: readonly number[] }>,
): string | undefined {
  if (process.platform !== 'linux') return undefined
  // proc_pid_net_tcp(5): the address is hexadecimal, a loopback address in the order of the host; then, in the eighth and the
  // tenth field, the user and the inode.
  const local = `0100007F:${port.toString(16).toUpperCase().padStart(4, '0')}`
  const entries = readFileSync('/proc/net/tcp', 'latin1').split('\n')
  const fields = entries.map((line) => line.trim().split(/\s+/)).find(([, address]) => address === local)
  if (fields === undefined) return undefined
  const socket = `socket:[${fields[9]}]`
  // To look into each process takes a while: none of another user has it.
  const mayOwn = (pid: number) => userOf(pid) === Number(fields[7])
  let all: ProcessEntry[] | undefined
  for (const { name, pids } of owners) {
    for (const root of pids.filter(mayOwn)) {
      all ??= listProcesses()
      if (processTree(root, all).some((pid) => holds(pid, socket))) return name
    }
  }
  return undefined
}

function userOf(pid: number): number | undefined {
  try {
    return statSync(`/proc/${pid}`).uid
  } catch {
    return undefined
  }
}

function holds(pid: number, file: string): boolean {
  try {
    return readdirSync(`/proc/${pid}/fd`).some((fd) => linkOf(`/proc/${pid}/fd/${fd}`) === file)
  } catch {
    return false
  }
}

function linkOf(path: string): string | undefined {
  try {
    return readlinkSync(path)
  } catch {
    return undefined
  }
}

// The parent first, so that it makes no child between the listing and the signal.
function stopTree(pid: number): number[] {
  send(pid, 'SIGSTOP')
  const pids = processTree(pid)
  for (const one of pids) send(one, 'SIGSTOP')
  return pids
}

async function gone(pids: number[]): Promise<void> {
  const deadline = performance.now() + 10_000
  let left = pids
  while (left.length > 0) {
    left = left.filter((pid) => startTimeOf(pid) !== undefined)
    if (left.length === 0) return
    if (performance.now() > deadline) {
      throw new TabibError('SERVER_FAILED', `processes ${left.join(', ')} are still there 10 s after SIGKILL`)
    }
    await delay(2)
  }
}

function processTree(root: number, all = listProcesses()): number[] {
  const pids = [root]
  // The list grows while it is walked; each process has one parent, so it is walked once.
  for (const pid of pids) pids.push(...all.filter(({ parent }) => parent === pid).map((entry) => entry.pid))
  return pids
}

function listProcesses(): ProcessEntry[] {
  if (process.platform !== 'linux') return readWithPs(['-A'])
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((name) => readProcess(Number(name)))
    .filter((entry) => entry !== undefined)
}

function readProcess(pid: number): ProcessEntry | undefined {
  if (process.platform !== 'linux') return readWithPs(['-p', String(pid)])[0]
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    // proc(5): the second field is the command in brackets and may hold anything; state, parent … start (22nd) follow.
    const [state, parent, ...rest] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return { pid, parent: Number(parent), zombie: state === 'Z' || state === 'X', start: rest[17] ?? '' }
  } catch {
    return undefined
  }
}

function readWithPs(which: string[]): ProcessEntry[] {
  try {
    const text = execFileSync('ps', [...which, '-o', 'pid=,ppid=,stat=,lstart='], { encoding: 'utf8' })
    return text.split('\n').flatMap((line) => {
      const [pid, parent, state, ...start] = line.trim().split(/\s+/)
      if (!pid) return []
      return [
        {
          pid: Number(pid),
          parent: Number(parent),
          zombie: state?.[0] === 'Z',
          start: start.join('_').replaceAll(':', ''),
        },
      ]
    })
  } catch {
    return []
  }
}

function send(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}
