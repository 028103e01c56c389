import { randomBytes } from 'node:crypto'
import { chown, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { openDatabase } from '../../adapters/postgres/client.ts'
import { inFolder, type SandboxFolder } from '../folder.ts'
import { requirePrograms } from './find.ts'
import { unprivilegedAccount } from './postgres.ts'
import { freePort, type Server, type ServerOptions, startServerProcess } from './process.ts'

export interface PgBouncerServer extends Server {
  /** The URL of a database behind it, for whoever has `url` to it directly. */
  through(url: string): string
  /** The admin console, for a login that may look and not change. */
  readonly consoleUrl: string
  /** Begins transactions in which nothing more happens, as a program that hangs leaves them. */
  hold(url: string, count: number): Promise<AsyncDisposable>
}

export interface PgBouncerOptions extends ServerOptions {
  /** Direct URLs with passwords, one a login: where it pools connections to. */
  urls: readonly string[]
  /** Server connections of each database and login. */
  poolSize?: number
}

/**
 * Starts a private pgbouncer in transaction mode: after each transaction a client's server connection goes to whoever asks
 * next, with whatever was set on it for the session.
 *
 * @throws TabibError SERVER_MISSING, SERVER_FAILED.
 */
export async function startPgBouncer(options: PgBouncerOptions): Promise<PgBouncerServer> {
  const programs = await requirePrograms(['pgbouncer'])
  return inFolder(options.folder, (folder) => start(folder, programs.pgbouncer, options))
}

const STATS_USER = 'stats'

async function start(
  folder: SandboxFolder,
  command: string,
  { urls, poolSize = 1, proxied = false }: PgBouncerOptions,
): Promise<PgBouncerServer> {
  const account = await unprivilegedAccount()
  const dir = await folder.make('pgbouncer', account)
  const port = await freePort()
  const targets = urls.map((url) => new URL(url))
  const [{ hostname, port: behind }] = targets as [URL]
  const statsPassword = randomBytes(16).toString('hex')
  const users = join(dir, 'users.txt')
  const config = join(dir, 'pgbouncer.ini')
  const settings = {
    listen_addr: '127.0.0.1',
    listen_port: port,
    unix_socket_dir: '',
    auth_type: 'scram-sha-256',
    auth_file: users,
    pool_mode: 'transaction',
    default_pool_size: poolSize,
    stats_users: STATS_USER,
    // Sooner than callers give up, so that they are told why.
    query_wait_timeout: 2,
    ignore_startup_parameters: 'extra_float_digits,statement_timeout',
  }
  const lines = Object.entries(settings).map(([name, value]) => `${name} = ${value}`)
  await writeFile(
    config,
    `[databases]\n* = host=${hostname} port=${behind}\n[pgbouncer]\n${lines.join('\n')}\n`,
    {
      mode: 0o600,
    },
  )
  const logins = [...targets, { username: STATS_USER, password: statsPassword }]
  await writeFile(users, logins.map(({ username, password }) => `"${username}" "${password}"\n`).join(''), {
    mode: 0o600,
  })
  for (const file of account ? [config, users] : []) await chown(file, account!.uid, account!.gid)
  const server = await startServerProcess({
    name: 'pgbouncer',
    folder,
    port,
    proxied,
    disk: undefined,
    command,
    args: [config],
    dir,
    account,
    ready: /process up/,
    stopSignal: 'SIGINT',
  })
  const through = (url: string) => {
    const target = new URL(url)
    target.port = String(server.clientPort)
    return target.href
  }
  return Object.assign(server, {
    through,
    async hold(url: string, count: number) {
      const db = openDatabase({
        url: through(url),
        maxConnections: count,
        applicationName: 'statement export',
      })
      const connections = await Promise.all(Array.from({ length: count }, () => db.connection()))
      await Promise.all(connections.map((one) => one.query('begin; select 1')))
      return {
        async [Symbol.asyncDispose]() {
          await Promise.all(connections.map((one) => one.query('rollback').catch(() => {})))
          await Promise.all(connections.map((one) => one[Symbol.asyncDispose]()))
          await db.close()
        },
      }
    },
    consoleUrl: `postgres://${STATS_USER}:${statsPassword}@127.0.0.1:${server.clientPort}/pgbouncer`,
  })
}
