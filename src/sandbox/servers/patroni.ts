import { randomBytes } from 'node:crypto'
import { chown, readFile, realpath, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { stringify } from 'yaml'
import { TabibError } from '../../errors.ts'
import { killTree, pauseTree, resumeTree } from '../faults/process.ts'
import { type Account, inFolder, type SandboxFolder } from '../folder.ts'
import { requirePrograms } from './find.ts'
import { unprivilegedAccount } from './postgres.ts'
import { freePort, type Server, startServerProcess } from './process.ts'

export interface PatroniOptions {
  folder?: SandboxFolder | undefined
  scope: string
  /**
   * A commit is acknowledged only once a second member has it, and only that member may take over by itself; `strict`:
   * also while there is no such member, so that commits then wait.
   */
  synchronous?: boolean | 'strict' | undefined
  /** `user:password` that a call of the REST API must bring which changes something. */
  restCredentials?: string | undefined
  /** One Postgres each; the first leads. */
  members: { name: string; tags?: Record<string, unknown> }[]
  /** Superuser's URL of the Postgres that this cluster stands by for; a cluster of its own when left out. */
  standbyOf?: string | undefined
}

/** One member's Patroni process; its Postgres lives on without it. */
export interface PatroniNode extends Server {
  readonly name: string
  /** REST API. */
  readonly url: string
  readonly postgresPort: number
  /** SIGKILL to Postgres alone: Patroni finds it dead. */
  killPostgres(): Promise<void>
  /** SIGKILL to Patroni and Postgres together: the host is gone. `restart` brings it back. */
  killNode(): Promise<void>
  /** SIGSTOP to both: the host hangs, with its connections open. */
  pauseNode(): Promise<void>
  resumeNode(): Promise<void>
}

/** A real cluster: Patroni and Postgres a member, one etcd. */
export interface PatroniServer extends AsyncDisposable {
  readonly scope: string
  /** REST API of each member. */
  readonly urls: string[]
  readonly members: readonly PatroniNode[]
  readonly etcd: Server & { readonly url: string }
  /** The superuser's connection to all of it; it follows the leader. */
  readonly adminUrl: string
  /** All members' Postgres, as a URL names several hosts. */
  readonly hosts: string
  /** Resolves with the leader and its synchronous standby once there is one. */
  synchronised(): Promise<{ leader: PatroniNode; standby: PatroniNode }>
  /** What an operator does in a disaster: the standby cluster stands by no longer. Resolves when its leader leads. */
  promote(): Promise<void>
  /** Whether it takes writes. */
  leads(): Promise<boolean>
}

/**
 * Starts a cluster under Patroni on free loopback ports.
 *
 * @throws TabibError SERVER_MISSING, SERVER_FAILED.
 */
export async function startPatroni(options: PatroniOptions): Promise<PatroniServer> {
  const programs = await requirePrograms(['patroni', 'etcd', 'postgres'])
  return inFolder(options.folder, (folder) => start(folder, programs, options))
}

async function start(
  folder: SandboxFolder,
  programs: { patroni: string; etcd: string; postgres: string },
  { scope, members, standbyOf, synchronous = false, restCredentials }: PatroniOptions,
): Promise<PatroniServer> {
  const account = await unprivilegedAccount()
  const etcd = await startEtcd(folder, programs.etcd, scope)
  const authentication = standbyOf === undefined ? ownRoles() : rolesOf(standbyOf)
  const started: PatroniNode[] = []
  const dispose = async () => {
    await Promise.all(started.map((node) => node.killNode()))
    await etcd[Symbol.asyncDispose]()
  }
  const [username, password] = restCredentials?.split(':') ?? []
  const startNode = async ({ name, tags = {} }: PatroniOptions['members'][number]): Promise<void> => {
    const dir = await folder.make(`${scope}-${name}`, account)
    const data = join(dir, 'data')
    const [restPort, port] = await Promise.all([freePort(), freePort()])
    const config = join(dir, 'patroni.yml')
    const settings = {
      scope,
      name,
      restapi: {
        listen: `127.0.0.1:${restPort}`,
        connect_address: `127.0.0.1:${restPort}`,
        ...(username === undefined ? {} : { authentication: { username, password } }),
      },
      etcd3: { hosts: [`127.0.0.1:${etcd.port}`] },
      bootstrap: {
        dcs: {
          ttl: 20,
          loop_wait: 1,
          retry_timeout: 3,
          synchronous_mode: synchronous !== false,
          synchronous_mode_strict: synchronous === 'strict',
          postgresql: {
            use_pg_rewind: true,
            // No fewer than the Postgres it stands by for, or it would not start.
            // A replica looks for its new leader once a second, not every five: so long commits wait in strict mode.
            parameters: { max_connections: 200, wal_retrieve_retry_interval: '1s' },
          },
          ...(standbyOf === undefined
            ? {}
            : { standby_cluster: { host: '127.0.0.1', port: Number(new URL(standbyOf).port) } }),
        },
        initdb: [{ encoding: 'UTF8' }, { auth: 'scram-sha-256' }, 'no-locale', 'no-sync', 'data-checksums'],
      },
      postgresql: {
        listen: `127.0.0.1:${port}`,
        connect_address: `127.0.0.1:${port}`,
        data_dir: data,
        // Beside the program itself lie others that Patroni runs; not beside a link to it.
        bin_dir: dirname(await realpath(programs.postgres)),
        pgpass: join(dir, 'pgpass'),
        authentication,
        basebackup: [{ checkpoint: 'fast' }, 'no-sync'],
        parameters: { unix_socket_directories: '', fsync: 'off', shared_buffers: '32MB' },
      },
      tags,
    }
    await writeFile(config, stringify(settings), { mode: 0o600 })
    if (account) await chown(config, account.uid, account.gid)
    const server = await startMember(folder, programs.patroni, { name, dir, config, restPort, account })
    // Patroni lets it go on without a parent, so that it outlives Patroni.
    await folder.record(await postmasterOf(data))
    const postgres = (act: (pid: number) => unknown) => postmasterOf(data).then(act, () => undefined)
    // Not a spread: the pid is read anew after each restart.
    const node: PatroniNode = Object.create(
      server,
      Object.getOwnPropertyDescriptors({
        name,
        url: `http://127.0.0.1:${restPort}`,
        postgresPort: port,
        killPostgres: async () => void (await postgres(killTree)),
        async killNode() {
          await server[Symbol.asyncDispose]()
          await postgres(killTree)
        },
        async pauseNode() {
          await server.pause()
          await postgres(pauseTree)
        },
        async resumeNode() {
          await postgres(resumeTree)
          await server.resume()
        },
      }),
    )
    started.push(node)
  }
  try {
    const [first, ...others] = members
    if (first) await startNode(first)
    await Promise.all(others.map(startNode))
  } catch (error) {
    await dispose()
    throw error
  }
  const nodes = members.map(({ name }) => started.find((node) => node.name === name)!)
  const hosts = nodes.map(({ postgresPort }) => `127.0.0.1:${postgresPort}`).join()
  return {
    scope,
    urls: nodes.map(({ url }) => url),
    members: nodes,
    etcd,
    hosts,
    adminUrl: `postgres://${authentication.superuser.username}:${authentication.superuser.password}@${hosts}/postgres`,
    synchronised: () => synchronised(nodes),
    promote: () => promote(nodes[0]!.url),
    leads: () => leads(nodes[0]!.url),
    [Symbol.asyncDispose]: dispose,
  }
}

async function startEtcd(
  folder: SandboxFolder,
  command: string,
  scope: string,
): Promise<PatroniServer['etcd']> {
  const dir = await folder.make(`${scope}-etcd`)
  const [port, peerPort] = await Promise.all([freePort(), freePort()])
  const [url, peer] = [`http://127.0.0.1:${port}`, `http://127.0.0.1:${peerPort}`]
  const args = {
    'data-dir': join(dir, 'data'),
    'listen-client-urls': url,
    'advertise-client-urls': url,
    'listen-peer-urls': peer,
    'initial-advertise-peer-urls': peer,
    'initial-cluster': `default=${peer}`,
  }
  const etcd = await startServerProcess({
    name: 'etcd',
    folder,
    port,
    proxied: false,
    disk: undefined,
    command,
    args: Object.entries(args).flatMap(([name, value]) => [`--${name}`, value]),
    dir,
    ready: /ready to serve client requests|serving (insecure )?client (requests|traffic)/,
    stopSignal: 'SIGTERM',
  })
  return Object.create(etcd, { url: { value: url } }) as PatroniServer['etcd']
}

const startMember = (
  folder: SandboxFolder,
  command: string,
  member: { name: string; dir: string; config: string; restPort: number; account: Account | undefined },
): Promise<Server> =>
  startServerProcess({
    name: `Patroni ${member.name}`,
    folder,
    port: member.restPort,
    proxied: false,
    disk: undefined,
    command,
    args: [member.config],
    dir: member.dir,
    account: member.account,
    ready: /no action\. I am \(|initialized a new cluster/,
    stopSignal: 'SIGTERM',
    timeoutMs: 40_000,
  })

const ownRoles = () => ({
  superuser: { username: 'postgres', password: randomBytes(16).toString('hex') },
  replication: { username: 'replicator', password: randomBytes(16).toString('hex') },
})

function rolesOf(url: string) {
  const { username, password } = new URL(url)
  return { superuser: { username, password }, replication: { username, password } }
}

async function promote(url: string): Promise<void> {
  await fetch(`${url}/config`, { method: 'PATCH', body: JSON.stringify({ standby_cluster: null }) })
  for (let attempt = 0; attempt < 200; attempt += 1) {
    if (await leads(url)) return
    await delay(50)
  }
  throw new TabibError('SERVER_FAILED', `the standby cluster at ${url} did not take over within 10 s`)
}

const leads = async (url: string): Promise<boolean> => (await fetch(`${url}/primary`)).ok

const postmasterOf = async (data: string): Promise<number> =>
  Number((await readFile(join(data, 'postmaster.pid'), 'utf8')).split('\n')[0])

async function synchronised(
  nodes: readonly PatroniNode[],
): Promise<{ leader: PatroniNode; standby: PatroniNode }> {
  const deadline = performance.now() + SYNCHRONISED_LIMIT_MS
  for (;;) {
    for (const { url } of nodes) {
      const list = (await fetch(`${url}/cluster`)
        .then((response) => response.json())
        .catch(() => ({}))) as { members?: { name: string; role: string }[] }
      const named = (role: string) => list.members?.find((one) => one.role === role)?.name
      const [leader, standby] = ['leader', 'sync_standby'].map((role) =>
        nodes.find(({ name }) => name === named(role)),
      )
      if (leader && standby) return { leader, standby }
    }
    if (performance.now() > deadline) {
      throw new TabibError('SERVER_FAILED', 'the cluster has no synchronous standby after 30 s')
    }
    await delay(50)
  }
}

const SYNCHRONISED_LIMIT_MS = 30_000
