import type { App } from '../app.ts'
import type { Service } from '../service.ts'
import type { NatsServer } from './servers/nats.ts'
import type { PostgresServer } from './servers/postgres.ts'
import type { RedisServer } from './servers/redis.ts'

/** A `tabib` process that the world started: the same binary an operator runs, pointed at the sandbox. */
export interface TabibProcess extends AsyncDisposable {
  readonly pid: number
  /** SIGKILL, SIGSTOP, SIGCONT, SIGTERM to this process alone. */
  signal(signal: NodeJS.Signals): void
  /** Settles with the exit code (null when a signal ended it). */
  readonly exited: Promise<number | null>
  readonly stdout: () => string
  readonly stderr: () => string
}

/** Everything a rehearsal needs as one disposable value: private servers, an app on them, and processes to hurt. */
export interface World extends AsyncDisposable {
  readonly app: App
  readonly db: App['db']
  readonly postgres: PostgresServer
  readonly nats: NatsServer
  readonly redis: RedisServer
  /** TABIB_*_URL for a child process on this world. */
  readonly env: Record<string, string>
  /** Starts `tabib …argv` on this world. */
  spawn(argv: string[], options?: { env?: Record<string, string> }): TabibProcess
  /** Runs `tabib …argv --json` to its end and returns exit code and the parsed envelope. */
  tabib(argv: string[]): Promise<{ exitCode: number; envelope: unknown; stderr: string }>
  /** Starts the workers named and resolves when each has made its first pass. */
  startWorkers(names: string[]): Promise<TabibProcess>
  /** Inserts `count` events as a producer would, in one transaction, backdated by `ageS` seconds. Returns event ids. */
  produce(service: Service, options: { count: number; ageS?: number; aggregateId?: string; type?: string; data?: unknown }): Promise<string[]>
}
