import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { chown, readFile, realpath, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import { stringify } from 'yaml'
import { TabibError } from '../../errors.ts'
import { mountSmallDisk, type SmallDisk } from '../faults/disk.ts'
import { killTree, ownerOfConnection, pauseTree, resumeTree } from '../faults/process.ts'
import { type Link, openLink } from '../faults/proxy.ts'
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
  /** Patroni's REST API and etcd speak TLS alone, to whoever shows a certificate: that of `PatroniServer.tls`. */
  tls?: boolean | undefined
  /** Members of the store; three have a majority to lose. */
  etcdMembers?: 1 | 3 | undefined
  /** Puts links in front of each member's Postgres, of its REST API and of its way to the store, for faults of the network. */
  proxied?: boolean | undefined
  /** Puts each member's data on a disk of this many MiB that can be filled (root only). */
  diskMb?: number | undefined
  /** Further dynamic configuration, merged over the sandbox's own. */
  settings?: { postgresql?: object; [name: string]: unknown } | undefined
}

/** What a member can be cut off from: the store, the other members both ways, and whoever else asks it. */
export type Neighbour = 'store' | 'members' | 'clients'

/** One member's Patroni process; its Postgres lives on without it. */
export interface PatroniNode extends Server {
  readonly name: string
  /** REST API. */
  readonly url: string
  readonly postgresPort: number
  /** The store as this member reaches it. */
  readonly storeUrl: string
  /** Patroni's own configuration, which `patronictl -c` reads too. */
  readonly configFile: string
  /** SIGKILL to Postgres alone: Patroni finds it dead. */
  killPostgres(): Promise<void>
  /** SIGKILL to Patroni and Postgres together: the host is gone. `restart` brings it back. */
  killNode(): Promise<void>
  /** SIGSTOP to both: the host hangs, with its connections open. */
  pauseNode(): Promise<void>
  resumeNode(): Promise<void>
  /**
   * Cuts its network; disposing heals it. What is sent meanwhile arrives then, and nobody is told that it did not before.
   * @throws TabibError SERVER_FAILED when the cluster was started without `proxied`.
   */
  isolate(from: readonly Neighbour[]): AsyncDisposable
  /** What it receives of the leader's WAL comes no faster than this; disposing ends it. @throws TabibError as `isolate` */
  lag(link: { bytesPerS: number }): AsyncDisposable
}

/** A real cluster: Patroni and Postgres a member, one etcd. */
export interface PatroniServer extends AsyncDisposable {
  readonly scope: string
  /** REST API of each member. */
  readonly urls: string[]
  readonly members: readonly PatroniNode[]
  readonly etcd: EtcdServer
  /** All members of the store; `etcd` is the first. */
  readonly etcds: readonly EtcdServer[]
  /** The superuser's connection to all of it; it follows the leader. */
  readonly adminUrl: string
  /** One certificate for all, which is its own authority; files in PEM, where it was started with `tls`. */
  readonly tls: Certificate | undefined
  /** All members' Postgres, as a URL names several hosts. */
  readonly hosts: string
  /**
   * Switches over and kills the new leader before it has named a synchronous standby, so that Patroni chooses nobody ever after;
   * resolves with the one that was killed. @throws TabibError SERVER_FAILED when it named one first, three times.
   */
  strand(): Promise<PatroniNode>
  /** Resolves with the leader and its synchronous standby once there is one. */
  synchronised(): Promise<{ leader: PatroniNode; standby: PatroniNode }>
  /** What an operator does in a disaster: the standby cluster stands by no longer. Resolves when its leader leads. */
  promote(): Promise<void>
  /** Whether it takes writes. */
  leads(): Promise<boolean>
}

interface Certificate {
  ca: string
  certificate: string
  key: string
}

export type EtcdServer = Server & { readonly url: string }

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
  {
    scope,
    members,
    standbyOf,
    synchronous = false,
    restCredentials,
    tls: secured = false,
    etcdMembers = 1,
    proxied = false,
    diskMb,
    settings: { postgresql, ...dynamic } = {},
  }: PatroniOptions,
): Promise<PatroniServer> {
  const account = await unprivilegedAccount()
  const tls = secured ? await selfSigned(await folder.make(`${scope}-tls`, account), account) : undefined
  const http = tls ? 'https' : 'http'
  const etcds = await startEtcd(folder, programs.etcd, { scope, count: etcdMembers, tls })
  const network = proxied ? openNetwork() : undefined
  const authentication = standbyOf === undefined ? ownRoles() : rolesOf(standbyOf)
  const started: PatroniNode[] = []
  const dispose = async () => {
    await Promise.all(started.map((node) => node.killNode()))
    await Promise.all([...etcds, network].map((part) => part?.[Symbol.asyncDispose]()))
  }
  const [username, password] = restCredentials?.split(':') ?? []
  const startNode = async ({ name, tags = {} }: PatroniOptions['members'][number]): Promise<void> => {
    const dir = await folder.make(`${scope}-${name}`, account)
    // Below the mount, since a member that is made anew removes the folder itself.
    const home = diskMb === undefined ? dir : await folder.make(join(`${scope}-${name}`, 'disk'), account)
    const disk = diskMb === undefined ? undefined : await mountSmallDisk(home, diskMb, account)
    const data = join(home, 'data')
    const [restPort, port] = await Promise.all([freePort(), freePort()])
    let node: PatroniNode | undefined
    const place = await network?.addMember(name, {
      rest: restPort,
      postgres: port,
      // Each has a way of its own to every one of them.
      stores: etcds.map((etcd) => etcd.port),
      processes: () => processesOf(node, data),
    })
    const storePorts = place?.stores ?? etcds.map((etcd) => etcd.port)
    const config = join(dir, 'patroni.yml')
    const settings = {
      scope,
      name,
      restapi: {
        listen: `127.0.0.1:${restPort}`,
        connect_address: `127.0.0.1:${place?.rest ?? restPort}`,
        ...(username === undefined ? {} : { authentication: { username, password } }),
        ...(tls && {
          ...{ certfile: tls.certificate, keyfile: tls.key, cafile: tls.ca, verify_client: 'required' },
        }),
      },
      ...(tls && { ctl: { cacert: tls.ca, certfile: tls.certificate, keyfile: tls.key } }),
      // By its members' own addresses it would go past the links.
      etcd3: {
        hosts: storePorts.map((one) => `127.0.0.1:${one}`),
        use_proxies: proxied,
        ...(tls && { protocol: 'https', cacert: tls.ca, cert: tls.certificate, key: tls.key }),
      },
      bootstrap: {
        dcs: {
          ttl: 20,
          loop_wait: 1,
          retry_timeout: 3,
          synchronous_mode: synchronous !== false,
          synchronous_mode_strict: synchronous === 'strict',
          ...dynamic,
          postgresql: {
            use_pg_rewind: true,
            ...postgresql,
            // No fewer than the Postgres it stands by for, or it would not start.
            // A replica looks for its new leader once a second, not every five: so long commits wait in strict mode.
            parameters: {
              ...{ max_connections: 200, wal_retrieve_retry_interval: '1s' },
              // A small disk has room for few segments of 16 MiB.
              ...(disk && { max_wal_size: '64MB', min_wal_size: '32MB', wal_keep_size: '0' }),
            },
          },
          ...(standbyOf === undefined
            ? {}
            : { standby_cluster: { host: '127.0.0.1', port: Number(new URL(standbyOf).port) } }),
        },
        initdb: [{ encoding: 'UTF8' }, { auth: 'scram-sha-256' }, 'no-locale', 'no-sync', 'data-checksums'],
      },
      postgresql: {
        listen: `127.0.0.1:${port}`,
        connect_address: `127.0.0.1:${place?.postgres ?? port}`,
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
    const server = await startMember(folder, programs.patroni, { name, dir, config, restPort, account, disk })
    // Patroni lets it go on without a parent, so that it outlives Patroni.
    await folder.record(await postmasterOf(data))
    const postgres = (act: (pid: number) => unknown) => postmasterOf(data).then(act, () => undefined)
    // Not a spread: the pid is read anew after each restart.
    node = Object.create(
      server,
      Object.getOwnPropertyDescriptors({
        name,
        url: `${http}://127.0.0.1:${place?.rest ?? restPort}`,
        postgresPort: place?.postgres ?? port,
        storeUrl: `${http}://127.0.0.1:${storePorts[0]}`,
        configFile: config,
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
        isolate: (from: readonly Neighbour[]) => (network ?? unlinked()).isolate(name, from),
        lag: (link: { bytesPerS: number }) => (network ?? unlinked()).lag(name, link),
      }),
    )
    started.push(node!)
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
    etcd: etcds[0]!,
    etcds,
    tls,
    hosts,
    adminUrl: `postgres://${authentication.superuser.username}:${authentication.superuser.password}@${hosts}/postgres`,
    strand: () => strand(nodes, { storeUrl: etcds[0]!.url, scope }),
    synchronised: () => synchronised(nodes),
    promote: () => promote(nodes[0]!.url),
    leads: () => leads(nodes[0]!.url),
    [Symbol.asyncDispose]: dispose,
  }
}

async function startEtcd(
  folder: SandboxFolder,
  command: string,
  { scope, count, tls }: { scope: string; count: number; tls: Certificate | undefined },
): Promise<EtcdServer[]> {
  const http = tls ? 'https' : 'http'
  const members = await Promise.all(
    Array.from({ length: count }, async (_, n) => {
      const [port, peerPort] = await Promise.all([freePort(), freePort()])
      return {
        name: `e${n + 1}`,
        port,
        url: `${http}://127.0.0.1:${port}`,
        peer: `http://127.0.0.1:${peerPort}`,
      }
    }),
  )
  const cluster = members.map(({ name, peer }) => `${name}=${peer}`).join()
  return Promise.all(
    members.map((member) => startEtcdMember(folder, command, { scope, cluster, tls, ...member })),
  )
}

async function startEtcdMember(
  folder: SandboxFolder,
  command: string,
  {
    scope,
    cluster,
    tls,
    ...member
  }: {
    scope: string
    cluster: string
    tls: Certificate | undefined
    name: string
    port: number
    url: string
    peer: string
  },
): Promise<EtcdServer> {
  const { name, port, url, peer } = member
  const dir = await folder.make(`${scope}-${name}`)
  const args = {
    name,
    'data-dir': join(dir, 'data'),
    'listen-client-urls': url,
    'advertise-client-urls': url,
    'listen-peer-urls': peer,
    'initial-advertise-peer-urls': peer,
    'initial-cluster': cluster,
    ...(tls && {
      ...{ 'cert-file': tls.certificate, 'key-file': tls.key, 'trusted-ca-file': tls.ca },
      'client-cert-auth': 'true',
    }),
  }
  const etcd = await startServerProcess({
    name: 'etcd',
    folder,
    port,
    proxied: false,
    disk: undefined,
    command,
    args: Object.entries(args).map(([flag, value]) => `--${flag}=${value}`),
    dir,
    ready: /ready to serve client requests|serving (insecure )?client (requests|traffic)/,
    stopSignal: 'SIGTERM',
  })
  return Object.create(etcd, { url: { value: url } }) as EtcdServer
}

/** A certificate for 127.0.0.1 that is its own authority. */
async function selfSigned(dir: string, account: Account | undefined): Promise<Certificate> {
  const { openssl } = await requirePrograms(['openssl'])
  const [certificate, key] = [join(dir, 'certificate.pem'), join(dir, 'key.pem')]
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-noenc']
  const name = ['-subj', '/CN=sandbox', '-addext', 'subjectAltName=IP:127.0.0.1', '-days', '1']
  await promisify(execFile)(openssl, ['req', '-x509', ...curve, ...name, '-keyout', key, '-out', certificate])
  if (account) for (const file of [certificate, key]) await chown(file, account.uid, account.gid)
  return { ca: certificate, certificate, key }
}

/** The links of one cluster, and what is wrong with them. */
interface Network extends AsyncDisposable {
  addMember(
    name: string,
    member: { rest: number; postgres: number; stores: number[]; processes(): number[] },
  ): Promise<{ rest: number; postgres: number; stores: number[] }>
  isolate(name: string, from: readonly Neighbour[]): AsyncDisposable
  lag(name: string, link: { bytesPerS: number }): AsyncDisposable
}

const unlinked = (): never => {
  throw new TabibError(
    'SERVER_FAILED',
    "the sandbox's cluster has no links: start it with { proxied: true }",
    {
      retryable: false,
    },
  )
}

function openNetwork(): Network {
  const members = new Map<string, { doors: Link[]; ways: Link[]; processes(): number[] }>()
  const cuts = new Set<{ name: string; from: readonly Neighbour[] }>()
  const lags = new Set<{ name: string; bytesPerS: number }>()
  const isCut = (name: string, from: Neighbour) =>
    [...cuts].some((one) => one.name === name && one.from.includes(from))
  const ownerOf = (port: number) =>
    ownerOfConnection(
      port,
      [...members].map(([name, { processes }]) => ({ name, pids: processes() })),
    )
  const apply = async () => {
    const passed: Promise<void>[] = []
    for (const [name, { doors, ways }] of members) {
      const isBarred = (owner: string | undefined) =>
        owner === undefined
          ? isCut(name, 'clients')
          : owner !== name && (isCut(name, 'members') || isCut(owner, 'members'))
      const slowest = [...lags].find(({ name: one }) => one !== name)
      for (const door of doors) {
        if (cuts.size === 0) passed.push(door.pass())
        else door.partition(isBarred)
        door.slow(slowest ?? {}, (owner) => [...lags].some((one) => one.name === owner))
      }
      for (const way of ways) {
        if (isCut(name, 'store')) way.partition()
        else passed.push(way.pass())
      }
    }
    await Promise.all(passed)
  }
  const within = <T>(all: Set<T>, fault: T): AsyncDisposable => {
    all.add(fault)
    void apply()
    return {
      async [Symbol.asyncDispose]() {
        all.delete(fault)
        await apply()
      },
    }
  }
  return {
    async addMember(name, { rest, postgres, stores, processes }) {
      const [ways, ...doors] = await Promise.all([
        Promise.all(stores.map((targetPort) => openLink({ targetPort }))),
        openLink({ targetPort: rest, ownerOf }),
        openLink({ targetPort: postgres, ownerOf }),
      ])
      members.set(name, { doors, ways, processes })
      const [restLink, postgresLink] = doors as [Link, Link]
      return { rest: restLink.port, postgres: postgresLink.port, stores: ways.map(({ port }) => port) }
    },
    isolate: (name, from) => within(cuts, { name, from }),
    lag: (name, { bytesPerS }) => within(lags, { name, bytesPerS }),
    async [Symbol.asyncDispose]() {
      await Promise.all(
        [...members.values()].flatMap(({ doors, ways }) =>
          [...doors, ...ways].map((link) => link[Symbol.asyncDispose]()),
        ),
      )
    },
  }
}

const startMember = (
  folder: SandboxFolder,
  command: string,
  member: {
    name: string
    dir: string
    config: string
    restPort: number
    account: Account | undefined
    disk: SmallDisk | undefined
  },
): Promise<Server> =>
  startServerProcess({
    name: `Patroni ${member.name}`,
    folder,
    port: member.restPort,
    proxied: false,
    disk: member.disk,
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

/** Patroni's and Postgres's, where they run. */
function processesOf(node: PatroniNode | undefined, data: string): number[] {
  const running = (pid: () => number | undefined): number[] => {
    try {
      return [pid()].filter((one) => one !== undefined)
    } catch {
      return []
    }
  }
  return [
    ...running(() => node?.pid),
    ...running(() => Number(readFileSync(join(data, 'postmaster.pid'), 'utf8').split('\n')[0])),
  ]
}

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

async function strand(
  nodes: readonly PatroniNode[],
  { storeUrl, scope }: { storeUrl: string; scope: string },
): Promise<PatroniNode> {
  const key = Buffer.from(`/service/${scope}/sync`).toString('base64')
  const named = async (): Promise<{ leader?: string; sync_standby?: string | null }> => {
    const response = await fetch(`${storeUrl}/v3/kv/range`, { method: 'POST', body: JSON.stringify({ key }) })
    const { kvs = [] } = (await response.json()) as { kvs?: { value: string }[] }
    return JSON.parse(Buffer.from(kvs[0]?.value ?? '', 'base64').toString() || '{}')
  }
  for (let attempt = 0; attempt < 3; attempt += 1) {
    const { leader, standby } = await synchronised(nodes)
    // The third could follow at once; the former leader has to start anew first.
    const others = nodes.filter((one) => one !== leader && one !== standby)
    for (const one of others) await one.pauseNode()
    // Patroni answers a second late: the key itself is looked at.
    const asked = fetch(`${leader.url}/switchover`, {
      method: 'POST',
      body: JSON.stringify({ leader: leader.name, candidate: standby.name }),
    }).catch(() => {})
    const deadline = performance.now() + SYNCHRONISED_LIMIT_MS
    while ((await named()).leader !== standby.name && performance.now() < deadline) await delay(10)
    await standby.killNode()
    for (const one of others) await one.resumeNode()
    await asked
    const sync = await named()
    if (sync.leader === standby.name && !sync.sync_standby) return standby
    await standby.restart()
  }
  throw new TabibError('SERVER_FAILED', 'a leader named its standby before it could be killed, three times')
}

const SYNCHRONISED_LIMIT_MS = 30_000
