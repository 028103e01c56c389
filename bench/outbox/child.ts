import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { connect, type NatsConnection } from '@nats-io/transport-node'
import { packageRoot } from '../../src/package-root.ts'

/** A program of this folder, running. */
export interface Child extends AsyncDisposable {
  readonly pid: number
  /** Settles with what it reported; rejects when it failed. */
  readonly ended: Promise<{ cpuS: number }>
}

/** Starts `bench/outbox/<name>.ts`; disposing ends it. */
export function startChild(name: string, argv: string[], env: Record<string, string>): Child {
  const file = join(packageRoot(), 'bench/outbox', `${name}.ts`)
  const child = spawn(process.execPath, ['--import', 'tsx', file, ...argv], {
    cwd: packageRoot(),
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let output = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text
  })
  const closed = new Promise<number | null>((resolve) => child.once('close', resolve))
  const ended = closed.then((code) => {
    if (code !== 0) throw new Error(`${name} ${argv.join(' ')} ended with ${code}`)
    return JSON.parse(output) as { cpuS: number }
  })
  // Whoever disposes of it before its end does not wait for the report.
  ended.catch(() => {})
  return {
    pid: child.pid ?? 0,
    ended,
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL')
      await closed
    },
  }
}

/** What a child prints at its end. */
export function report({ user, system }: NodeJS.CpuUsage): void {
  process.stdout.write(JSON.stringify({ cpuS: (user + system) / 1e6 }))
}

export function childEnv(name: string): string {
  const value = process.env[name]
  if (value === undefined) throw new Error(`${name} is not set: this runs only as a child of the benchmark`)
  return value
}

export function connectNats(): Promise<NatsConnection> {
  const { host, username, password } = new URL(childEnv('TABIB_NATS_URL'))
  return connect({ servers: host, user: username, pass: password })
}

const TICKS_PER_S = 100
const kibOf = (status: string, name: string) =>
  Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1])

/** CPU seconds spent so far and the most memory held, in MB, of one process. Source: proc(5). */
export function usageOf(pid: number): { cpuS: number; peakRssMb: number } {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /, '')
    .split(' ')
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  return {
    cpuS: (Number(fields[11]) + Number(fields[12])) / TICKS_PER_S,
    peakRssMb: (kibOf(status, 'VmHWM') * 1_024) / 1e6,
  }
}
