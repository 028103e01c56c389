import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { chown, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { openDatabase } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { mountSmallDisk } from '../faults/disk.ts'
import { type Account, inFolder, type SandboxFolder } from '../folder.ts'
import { requirePrograms } from './find.ts'
import { freePort, type Server, type ServerOptions, startServerProcess } from './process.ts'

/**
 * The roles that log in. `tabib_owner` owns databases and runs migrations, `tabib` is what tabib itself uses (member of
 * tabib_app, tabib_relay, tabib_auditor and tabib_erasure), `service` is a producer or consumer (member of tabib_app). None is a superuser.
 */
export type SandboxRole = 'tabib_owner' | 'tabib' | 'service'

const ROLES: SandboxRole[] = ['tabib_owner', 'tabib', 'service']

/** The roles and databases of a Postgres, wherever it runs. */
export interface Postgres {
  /** Superuser, for the sandbox's own plumbing alone: it would hide every isolation fault from a test. */
  readonly adminUrl: string
  /** Through the link when the server is `proxied`; every member of a cluster, for a client that follows its leader. */
  url(role: SandboxRole, database: string): string
  /** Makes a database owned by tabib_owner, as a copy of `template` when given (nobody may be connected to that). */
  createDatabase(options?: { template?: string }): Promise<{ name: string; ownerUrl: string }>
  /** Drops it, and the connections to it. */
  dropDatabase(name: string): Promise<void>
  /** Puts the login roles into the group roles that the first migration makes. */
  grantRoles(): Promise<void>
}

export type PostgresServer = Server &
  Postgres & {
    /** Where its clock is set, in a server that was started with `shiftable`. */
    readonly clock: ShiftableClock | undefined
    /** Stops it for good; what others may be copied from for as long as its folder lasts. */
    stopForCopies(database: string): Promise<PreparedPostgres>
  }

export interface ShiftableClock {
  /** Sets it this far from the true time, at once, and for sessions that are open, too. */
  shift(seconds: number): Promise<void>
  /** What sets it right again, as NTP would: program and arguments. */
  readonly step: readonly string[]
}

export interface PostgresOptions extends ServerOptions {
  /** Whether commits survive a power failure. False saves the flushes; a kill -9 loses nothing either way. */
  durable?: boolean | undefined
  /** Lets its clock be moved, by libfaketime. */
  shiftable?: boolean | undefined
  /** Further settings, e.g. `{ wal_level: 'logical' }`. */
  settings?: Record<string, string> | undefined
  /** Begins as a copy of it. Copies share its passwords and its system identifier: no two of one may stand for two systems. */
  copyOf?: PreparedPostgres | undefined
}

/** A stopped Postgres with tabib's schema in one database: copying it takes a tenth of the processor time of making it. */
export interface PreparedPostgres {
  /** Its data directory. */
  data: string
  database: string
  adminPassword: string
  passwords: Record<SandboxRole, string>
}

/**
 * Starts a private Postgres on a free loopback port: passwords are random, nothing but 127.0.0.1 is listened on.
 *
 * @throws TabibError SERVER_MISSING, SERVER_FAILED.
 */
export async function startPostgres(options: PostgresOptions = {}): Promise<PostgresServer> {
  const programs = await requirePrograms(['postgres', 'initdb'])
  return inFolder(options.folder, (folder) => start(folder, programs, options))
}

async function start(
  folder: SandboxFolder,
  programs: { postgres: string; initdb: string },
  { durable = false, proxied = false, diskMb, shiftable = false, settings = {}, copyOf }: PostgresOptions,
): Promise<PostgresServer> {
  const account = await unprivilegedAccount()
  const dir = await folder.make('postgres', account)
  const disk = diskMb === undefined ? undefined : await mountSmallDisk(dir, diskMb, account)
  const data = join(dir, 'data')
  const adminPassword = copyOf?.adminPassword ?? randomBytes(16).toString('hex')
  if (copyOf) await promisify(execFile)('cp', ['-a', '--reflink=auto', copyOf.data, data])
  else await initialise(programs.initdb, { dir, data, account, adminPassword })

  const port = await freePort()
  const all = {
    listen_addresses: '127.0.0.1',
    port: String(port),
    unix_socket_directories: '',
    max_connections: '200',
    shared_buffers: '128MB',
    // A small disk has room for few segments of 16 MiB.
    ...(disk ? { max_wal_size: '64MB', min_wal_size: '32MB' } : { max_wal_size: '2GB' }),
    timezone: 'UTC',
    log_timezone: 'UTC',
    // Commits still reach the kernel before they are acknowledged: only a power failure could lose them.
    ...(durable ? {} : { fsync: 'off', full_page_writes: 'off' }),
    ...settings,
  }
  const clock = shiftable ? await shiftableClock(dir) : undefined
  const server = await startServerProcess({
    name: 'Postgres',
    env: clock?.env,
    folder,
    port,
    proxied,
    disk,
    command: programs.postgres,
    args: ['-D', data, ...Object.entries(all).flatMap(([name, value]) => ['-c', `${name}=${value}`])],
    dir,
    account,
    ready: /database system is ready to accept connections/,
    // "Fast": open transactions are rolled back, not waited for.
    stopSignal: 'SIGINT',
  })
  const adminUrl = `postgres://postgres:${adminPassword}@127.0.0.1:${port}/postgres`
  const at = { adminUrl, hosts: `127.0.0.1:${server.clientPort}` }
  const passwords = copyOf?.passwords ?? newPasswords()
  const roles = copyOf ? rolesAt(at, passwords) : await makeRoles(at, passwords)
  return Object.assign(server, roles, {
    clock,
    async stopForCopies(database: string) {
      await server.stop()
      return { data, database, adminPassword, passwords }
    },
  })
}

/** libfaketime moves what Postgres reads of the wall clock, not the monotonic one, by what stands in a file. */
async function shiftableClock(dir: string): Promise<ShiftableClock & { env: Record<string, string> }> {
  const { libfaketime } = await requirePrograms(['libfaketime'])
  const [file, right] = [join(dir, 'clock'), join(dir, 'clock-right')]
  const shift = async (seconds: number, to = file) => writeFile(to, `${seconds < 0 ? '' : '+'}${seconds}s\n`)
  await Promise.all([shift(0), shift(0, right)])
  return {
    shift,
    step: ['cp', right, file],
    env: {
      LD_PRELOAD: libfaketime,
      FAKETIME_TIMESTAMP_FILE: file,
      FAKETIME_NO_CACHE: '1',
      FAKETIME_DONT_FAKE_MONOTONIC: '1',
      // Every session is a process of its own, and one segment of shared memory.
      FAKETIME_DISABLE_SHM: '1',
    },
  }
}

interface RolesAt {
  adminUrl: string
  /** Where they connect, as in a URL. */
  hosts: string
}

/** Makes the roles that log in, on a server that has none yet. */
export async function makeRoles(at: RolesAt, passwords = newPasswords()): Promise<Postgres> {
  await asAdmin(
    at.adminUrl,
    ...ROLES.map((role) => `create role ${role} login password '${passwords[role]}'`),
    'alter role tabib_owner createrole createdb',
  )
  return rolesAt(at, passwords)
}

function rolesAt({ adminUrl, hosts }: RolesAt, passwords: Record<SandboxRole, string>): Postgres {
  const url = (role: SandboxRole, database: string) =>
    `postgres://${role}:${passwords[role]}@${hosts}/${database}`
  return {
    adminUrl,
    url,
    async createDatabase({ template } = {}) {
      const name = `tabib_${randomBytes(4).toString('hex')}`
      await asAdmin(
        adminUrl,
        `create database ${name} owner tabib_owner${template ? ` template ${template}` : ''}`,
      )
      return { name, ownerUrl: url('tabib_owner', name) }
    },
    dropDatabase: (name) => asAdmin(adminUrl, `drop database if exists ${name} with (force)`),
    grantRoles: () =>
      asAdmin(
        adminUrl,
        'grant tabib_app, tabib_relay, tabib_auditor, tabib_erasure to tabib',
        // The owner tries what a service could do: `isolation check`.
        'grant tabib_app to service, tabib_owner',
      ),
  }
}

async function asAdmin(adminUrl: string, ...statements: string[]): Promise<void> {
  await using admin = openDatabase({ url: adminUrl, maxConnections: 1, applicationName: 'tabib sandbox' })
  for (const statement of statements) await admin.query(statement)
}

function newPasswords(): Record<SandboxRole, string> {
  const password = () => randomBytes(16).toString('hex')
  return { tabib_owner: password(), tabib: password(), service: password() }
}

/** Whose servers run as somebody else, because Postgres refuses to run as root; undefined when nobody has to. */
export async function unprivilegedAccount(): Promise<Account | undefined> {
  if (process.getuid?.() !== 0) return undefined
  const id = async (flag: string, name: string) =>
    Number((await promisify(execFile)('id', [flag, name])).stdout)
  for (const name of ['postgres', 'nobody']) {
    try {
      return { uid: await id('-u', name), gid: await id('-g', name) }
    } catch {
      // No such user; the next one.
    }
  }
  throw new TabibError(
    'SERVER_FAILED',
    'Postgres does not run as root, and there is no user "postgres" or "nobody"',
    {
      suggestions: ['useradd --system postgres'],
      retryable: false,
    },
  )
}

async function initialise(
  initdb: string,
  to: { dir: string; data: string; account: Account | undefined; adminPassword: string },
): Promise<void> {
  const passwordFile = join(to.dir, 'password')
  await writeFile(passwordFile, to.adminPassword, { mode: 0o600 })
  if (to.account) await chown(passwordFile, to.account.uid, to.account.gid)
  const args = ['-D', to.data, '-U', 'postgres', '--pwfile', passwordFile, '--auth', 'scram-sha-256']
  try {
    await promisify(execFile)(initdb, [...args, '--encoding', 'UTF8', '--no-locale', '--no-sync'], {
      cwd: to.dir,
      env: { PATH: process.env.PATH, LC_ALL: 'C', TZ: 'UTC' },
      ...to.account,
    })
  } catch (cause) {
    const { stderr = '' } = cause as { stderr?: string }
    throw new TabibError('SERVER_FAILED', `initdb failed in ${to.data}:\n${stderr.trim()}`, { cause })
  } finally {
    await rm(passwordFile, { force: true })
  }
}
