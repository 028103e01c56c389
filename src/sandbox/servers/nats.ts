import { randomBytes } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { TabibError } from '../../errors.ts'
import { mountSmallDisk } from '../faults/disk.ts'
import { type Link, openLink } from '../faults/proxy.ts'
import { inFolder, type SandboxFolder } from '../folder.ts'
import { requirePrograms } from './find.ts'
import { freePort, type Server, type ServerOptions, startServerProcess } from './process.ts'

/** One nats-server of the sandbox. */
export interface NatsNode extends Server {
  /** `nats://user:password@127.0.0.1:port`, through the link when it is `proxied`. */
  readonly url: string
}

/** One node, or a cluster of three; `port`, `pid`, `dir` and `link` are those of the first. */
export interface NatsServer extends AsyncDisposable {
  /** The URLs of all nodes, comma-separated. */
  readonly url: string
  readonly port: number
  readonly pid: number
  readonly dir: string
  readonly nodes: readonly NatsNode[]
  /** Each of these does it to every node. */
  kill(): Promise<void>
  pause(): Promise<void>
  resume(): Promise<void>
  stop(): Promise<void>
  restart(): Promise<void>
  logTail(lines?: number): string
  /** @throws TabibError SERVER_FAILED when it was started without `proxied`. Other nodes: `nodes[i].link`. */
  readonly link: Link
  /** Fills the disks of all nodes; disposing frees them. */
  fillDisk(): Promise<AsyncDisposable>
  /** Cuts the routes between one node and the others; clients still reach it. Disposing heals. */
  isolate(node: number): Promise<AsyncDisposable>
  /** Cuts every route, so that no node finds a majority. Disposing heals. */
  split(): Promise<AsyncDisposable>
}

export interface NatsOptions extends ServerOptions {
  nodes?: 1 | 3 | undefined
  /** Bytes that JetStream may keep on disk in each node: a full disk without root. */
  maxFileStore?: number | undefined
  /** Bytes that a message may have; the server's default is 1 MiB. */
  maxPayload?: number | undefined
}

/**
 * Starts a private NATS with JetStream on free loopback ports. A cluster's routes run through links of their own, and
 * the start waits until the cluster has a leader.
 *
 * @throws TabibError SERVER_MISSING, SERVER_FAILED.
 */
export async function startNats(options: NatsOptions = {}): Promise<NatsServer> {
  const programs = await requirePrograms(['nats-server'])
  return inFolder(options.folder, (folder) => start(folder, programs['nats-server'], options))
}

// As deploy/README.md has it for a real one: what a stream remembers for its dedupe window is marked again by every collection.
const GARBAGE_COLLECTION = { GOGC: '400' }

async function start(folder: SandboxFolder, command: string, options: NatsOptions): Promise<NatsServer> {
  const names = options.nodes === 3 ? ['n1', 'n2', 'n3'] : ['n1']
  const user = 'tabib'
  const password = randomBytes(16).toString('hex')
  const monitorPorts = await Promise.all(names.map(freePort))
  const clusterPorts = await Promise.all(names.map(freePort))
  const routes = names.length > 1 ? await openRoutes(clusterPorts) : []
  const routeUrl = ({ port }: Link) => `nats://route:${password}@127.0.0.1:${port}`

  const startNode = async (name: string, index: number): Promise<NatsNode> => {
    const dir = await folder.make(names.length > 1 ? `nats-${name}` : 'nats')
    const store = join(dir, 'data')
    await mkdir(store)
    const disk = options.diskMb === undefined ? undefined : await mountSmallDisk(store, options.diskMb)
    const port = await freePort()
    const config = {
      server_name: name,
      listen: `127.0.0.1:${port}`,
      authorization: { user, password },
      jetstream: {
        store_dir: store,
        ...(options.maxFileStore === undefined ? {} : { max_file_store: options.maxFileStore }),
      },
      ...(options.maxPayload === undefined ? {} : { max_payload: options.maxPayload }),
      ...(names.length > 1 && {
        http: `127.0.0.1:${monitorPorts[index]}`,
        cluster: {
          name: 'sandbox',
          listen: `127.0.0.1:${clusterPorts[index]}`,
          authorization: { user: 'route', password },
          no_advertise: true,
          // Nodes tell each other of their peers and dial them; an address that leads nowhere leaves only the links.
          advertise: '127.0.0.1:1',
          routes: routes.filter(({ from }) => from === index).map(({ link }) => routeUrl(link)),
        },
      }),
    }
    const path = join(dir, 'nats.conf')
    // The server's own configuration language reads JSON.
    await writeFile(path, JSON.stringify(config, null, 2), { mode: 0o600 })
    const node = await startServerProcess({
      name: names.length > 1 ? `NATS node ${name}` : 'NATS',
      folder,
      port,
      proxied: options.proxied ?? false,
      disk,
      command,
      args: ['-c', path],
      dir,
      env: GARBAGE_COLLECTION,
      ready: /Server is ready/,
      stopSignal: 'SIGTERM',
    })
    return Object.assign(node, { url: `nats://${user}:${password}@127.0.0.1:${node.clientPort}` })
  }
  const nodes = await Promise.all(names.map(startNode))
  const settled = async () => {
    if (nodes.length > 1) await clusterSettled(monitorPorts, nodes)
  }
  await settled()

  const first = nodes[0] as NatsNode
  const each = async (act: (node: NatsNode) => PromiseLike<void>) => {
    await Promise.all(nodes.map(act))
  }
  const cut = async (which: (route: Route) => boolean): Promise<AsyncDisposable> => {
    const links = routes.filter(which).map(({ link }) => link)
    for (const link of links) link.partition()
    return {
      async [Symbol.asyncDispose]() {
        // What was held back is lost, as it would be after an outage this long: the nodes dial again.
        for (const link of links) link.drop()
        await Promise.all(links.map((link) => link.pass()))
      },
    }
  }
  return {
    nodes,
    url: nodes.map(({ url }) => url).join(','),
    port: first.port,
    dir: first.dir,
    get pid() {
      return first.pid
    },
    kill: () => each((node) => node.kill()),
    pause: () => each((node) => node.pause()),
    resume: () => each((node) => node.resume()),
    stop: () => each((node) => node.stop()),
    async restart() {
      await each((node) => node.restart())
      await settled()
    },
    logTail: (lines) => nodes.map((node) => node.logTail(lines)).join('\n'),
    get link() {
      return first.link
    },
    async fillDisk() {
      const full = await Promise.all(nodes.map((node) => node.fillDisk()))
      return {
        async [Symbol.asyncDispose]() {
          await Promise.all(full.map((disk) => disk[Symbol.asyncDispose]()))
        },
      }
    },
    isolate: (node) => cut(({ from, to }) => from === node || to === node),
    split: () => cut(() => true),
    async [Symbol.asyncDispose]() {
      await each((node) => node[Symbol.asyncDispose]())
      await Promise.all(routes.map(({ link }) => link[Symbol.asyncDispose]()))
    },
  }
}

const SETTLE_LIMIT_MS = 30_000

/** Waits until JetStream has a leader that all nodes follow: earlier, a stream with three replicas may be refused. */
async function clusterSettled(monitorPorts: number[], nodes: NatsNode[]): Promise<void> {
  const deadline = performance.now() + SETTLE_LIMIT_MS
  for (;;) {
    const views = await Promise.all(monitorPorts.map(metaCluster))
    const leaders = new Set(views.map((view) => view?.leader))
    const isSettled = views.some(
      (view) => view?.replicas?.length === 2 && view.replicas.every(({ current }) => current),
    )
    if (isSettled && leaders.size === 1) return
    if (performance.now() > deadline) {
      const logs = nodes.map((node) => node.logTail(10)).join('\n')
      throw new TabibError(
        'SERVER_FAILED',
        `the NATS cluster has no settled leader after 30 s; its logs end with:\n${logs}`,
      )
    }
    await delay(20)
  }
}

/** A node's view of JetStream's own consensus group (`/jsz`); only the leader lists its replicas. */
async function metaCluster(
  monitorPort: number,
): Promise<{ leader?: string; replicas?: { current: boolean }[] } | undefined> {
  try {
    const response = await fetch(`http://127.0.0.1:${monitorPort}/jsz`)
    return ((await response.json()) as { meta_cluster?: object }).meta_cluster
  } catch {
    return undefined
  }
}

interface Route {
  from: number
  to: number
  link: Link
}

/** A link from each node to every other. */
async function openRoutes(clusterPorts: number[]): Promise<Route[]> {
  const pairs = clusterPorts.flatMap((targetPort, to) =>
    clusterPorts.flatMap((_, from) => (from === to ? [] : [{ from, to, targetPort }])),
  )
  return Promise.all(
    pairs.map(async ({ from, to, targetPort }) => ({ from, to, link: await openLink({ targetPort }) })),
  )
}
