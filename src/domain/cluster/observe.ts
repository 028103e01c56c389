import { lookup } from 'node:dns/promises'
import { readFile } from 'node:fs/promises'
import { isIPv6 } from 'node:net'
import { type Etcd, openEtcd } from '../../adapters/etcd/client.ts'
import type { Fetch } from '../../adapters/http/client.ts'
import {
  type ListedMember,
  openPatroni,
  type Patroni,
  type PatroniNode,
  type PatroniSettings,
} from '../../adapters/patroni/client.ts'
import { type Database, hostUrls, openDatabase } from '../../adapters/postgres/client.ts'
import type { ClusterConfig, Config, TlsFiles } from '../../config.ts'
import { TabibError } from '../../errors.ts'
import type { Reading } from '../residency/judge.ts'
import { hasFullDisk } from './writable.ts'

/** One member: as the store lists it, as it says itself, and how far its Postgres is. */
export interface MemberState extends ListedMember {
  own: Reading<PatroniNode>
  /**
   * The next transaction id as its Postgres sees it: two members differ by the transactions that one lacks. Undefined
   * where it cannot be asked.
   */
  nextXid: bigint | undefined
  /** Whether its Postgres is no replica, whatever its Patroni says. Undefined where it cannot be asked. */
  takesWrites: boolean | undefined
  /** Whether there is no room for some hundred kB where its data is. Undefined where it cannot be asked. */
  diskFull: boolean | undefined
  /** Whether the configuration names its host; otherwise its Postgres is not asked. */
  configured: boolean
}

/** What only the store knows. */
export interface StoreState {
  leader: string | undefined
  /** Who may take over by itself in synchronous mode: the last leader and its synchronous standbys. */
  sync: { leader: string | undefined; standbys: string[] }
  /** How far the last leader was when it last wrote its position there: at most a loop ago. */
  lastLsn: bigint | undefined
  /** A change of leader that somebody asked for and that has not happened. */
  pending: { candidate: string | undefined; leader: string | undefined } | undefined
  systemIdentifier: string | undefined
}

/** All that judging a cluster rests on. */
export interface ClusterState {
  scope: string
  systemIdentifier: string
  members: MemberState[]
  /** Members that the configuration names and the store's list does not: their keys there have run out. */
  unlisted: { address: string; host: string; own: Reading<PatroniNode> }[]
  settings: Reading<PatroniSettings>
  /** Undefined where the configuration names no etcd. */
  store: Reading<StoreState> | undefined
}

/** What a cluster is read from; an App is one. */
export interface ClusterReader {
  config: Pick<Config, 'cluster' | 'databaseUrl' | 'residency'>
  fetch(tenantId?: undefined, certificate?: TlsFiles): Fetch
}

// In a disaster somebody waits for every answer.
const LIMIT_MS = 2_000

/** @throws TabibError CONFIG_INVALID when the context names no cluster. */
export function requireCluster({ cluster }: Pick<Config, 'cluster'>): ClusterConfig {
  if (cluster) return cluster
  throw new TabibError('CONFIG_INVALID', 'the configuration names no Patroni cluster (cluster.patroni)', {
    suggestions: [
      'export TABIB_PATRONI_URL=http://<host>:8008 TABIB_ETCD_URL=http://<host>:2379',
      'docs/cluster.md',
    ],
  })
}

/**
 * Reads the whole cluster at once: any member's list, each member's own word, the store. Changes nothing; what does not
 * answer within 2 s counts as unread.
 *
 * @throws TabibError CONFIG_INVALID, PATRONI_UNREACHABLE when no member answers at all.
 */
export async function observeCluster(app: ClusterReader): Promise<ClusterState> {
  const ownCluster = requireCluster(app.config)
  const { patroni: urls, etcd, namespace, tls } = ownCluster
  const patroni = openPatroni({ urls, fetch: app.fetch(undefined, tls), timeoutMs: LIMIT_MS })
  const [cluster, settings] = await Promise.all([reading(patroni.cluster()), reading(patroni.settings())])
  if (!cluster.read) return withoutList(patroni, ownCluster, { settings, error: cluster.error })
  const { scope, systemIdentifier } = cluster.value
  const [members, store] = await Promise.all([
    Promise.all(
      cluster.value.members.map(async (member) => {
        const [own, postgres] = await Promise.all([
          reading(patroni.node(member.apiUrl)),
          askPostgres(app.config, member),
        ])
        return { ...member, own, ...postgres, configured: isConfigured(app.config, member.host) }
      }),
    ),
    etcd.length === 0
      ? undefined
      : reading(readStore(openStore(app, ownCluster), storePrefix(namespace, scope))),
  ])
  const unlisted = await unlistedOf(patroni, urls, members)
  return { scope, systemIdentifier, members, unlisted, settings, store }
}

/** Which of the configured URLs are none of the listed members', by whatever name they are reached. */
async function unlistedOf(
  patroni: Patroni,
  urls: readonly string[],
  members: readonly MemberState[],
): Promise<ClusterState['unlisted']> {
  const placeOf = ({ hostname, host, protocol, port }: URL, address = hostname) =>
    host && `${address.replace(/^\[|\]$/g, '')}:${port || (protocol === 'https:' ? 443 : 80)}`
  const listed = new Set(
    members.flatMap(({ apiUrl }) => (URL.canParse(apiUrl) ? [placeOf(new URL(apiUrl))] : [])),
  )
  const started = new Set(members.flatMap(({ own }) => (own.read ? [own.value.startedAt] : [])))
  const found = await Promise.all(
    urls.map(async (text) => {
      const url = new URL(text)
      const addresses = await lookup(url.hostname.replace(/^\[|\]$/g, ''), { all: true }).catch(() => [])
      const places = [placeOf(url), ...addresses.map(({ address }) => placeOf(url, address))]
      if (places.some((place) => listed.has(place))) return []
      const own = await reading(patroni.node(text))
      const known = own.read && own.value.startedAt !== undefined && started.has(own.value.startedAt)
      return known ? [] : [{ address: url.host, host: url.hostname, own }]
    }),
  )
  return found.flat()
}

/** Where the store keeps a cluster; Patroni takes a namespace with any slashes. */
export const storePrefix = (namespace: string, scope: string) =>
  `/${namespace}/${scope}/`.replace(/\/+/g, '/')

/** The list of members is in the store: without its majority, who is configured tells of itself alone, by its address. */
async function withoutList(
  patroni: Patroni,
  { patroni: urls, etcd }: ClusterConfig,
  { settings, error }: { settings: ClusterState['settings']; error: TabibError },
): Promise<ClusterState> {
  const members = await Promise.all(
    urls.map(async (apiUrl): Promise<MemberState> => {
      const own = await reading(patroni.node(apiUrl))
      const { role, state, tags } = own.read ? own.value : { role: '', state: '', tags: {} }
      const unknown = { port: undefined, ...UNASKED, configured: true }
      const { host: name, hostname: host } = new URL(apiUrl)
      return { name, role, state, tags, apiUrl, host, ...unknown, own }
    }),
  )
  const [first] = members.flatMap(({ own }) => (own.read ? own.value : []))
  if (!first) throw error
  const unread = new TabibError('ETCD_UNREACHABLE', 'no member reads the list of members from the store', {
    suggestions: [
      `etcdctl${etcd.length > 0 ? ` --endpoints ${etcd.join()}` : ''} endpoint status --cluster -w table`,
    ],
  })
  const { scope, systemIdentifier = '' } = first
  return {
    scope,
    systemIdentifier,
    members,
    settings,
    unlisted: [],
    store: { read: false, error: unread },
  }
}

/**
 * The URL of the database on one member, by the credentials that the configuration has; undefined for a member that
 * tells no host.
 */
export function memberUrl(
  databaseUrl: string,
  { host, port }: Pick<ListedMember, 'host' | 'port'>,
): string | undefined {
  const url = new URL(hostUrls(databaseUrl)[0]!)
  const written = isIPv6(host) ? `[${host}]` : host
  // A URL leaves its host alone where it is given none, and would lead to another member.
  if (!URL.canParse(`postgres://${written}`) || /[/@?#]|^$/.test(host)) return undefined
  url.hostname = written
  url.port = String(port ?? 5432)
  return url.href
}

/**
 * Whether the configuration itself names a host: in the database URL or as a member's REST API. A member's address comes
 * from Patroni, and whoever lies there must not be sent a password.
 */
export function isConfigured(
  { databaseUrl, cluster }: Pick<Config, 'databaseUrl' | 'cluster'>,
  host: string,
): boolean {
  const urls = [...(databaseUrl ? hostUrls(databaseUrl) : []), ...(cluster?.patroni ?? [])]
  const plain = (text: string) => text.toLowerCase().replace(/^\[|\]$/g, '')
  return urls.some((url) => URL.canParse(url) && plain(new URL(url).hostname) === plain(host))
}

/**
 * The Postgres of one member, by the credentials that the configuration has; undefined where it cannot be asked, or its
 * host is none that the configuration names.
 */
export function openMember(
  config: Pick<Config, 'databaseUrl' | 'cluster'>,
  member: Pick<ListedMember, 'host' | 'port'>,
): Database | undefined {
  const url = config.databaseUrl && memberUrl(config.databaseUrl, member)
  if (!url || !isConfigured(config, member.host)) return undefined
  return openDatabase({ url, maxConnections: 1, connectTimeoutMs: LIMIT_MS, answerWithinMs: LIMIT_MS })
}

/** etcd as the configuration names it, with its user where it wants one. @throws TabibError CONFIG_INVALID */
export async function openStore(
  app: Pick<ClusterReader, 'fetch'>,
  {
    etcd,
    etcdCredentialsFile,
    tls,
    etcdTls = tls,
  }: Pick<ClusterConfig, 'etcd' | 'etcdCredentialsFile' | 'tls' | 'etcdTls'>,
): Promise<Etcd> {
  const fetch = app.fetch(undefined, etcdTls)
  const credentials =
    etcdCredentialsFile === undefined
      ? undefined
      : await readCredentials('cluster.etcdCredentialsFile', etcdCredentialsFile)
  return openEtcd({ urls: etcd, fetch, timeoutMs: LIMIT_MS, credentials })
}

/** `user:password` of a file. @throws TabibError CONFIG_INVALID naming the setting. */
export async function readCredentials(setting: string, file: string): Promise<string> {
  const text = (await readFile(file, 'utf8').catch((cause: NodeJS.ErrnoException) => cause.code ?? '')).trim()
  if (/^[^:\s]+:\S+$/.test(text)) return text
  throw new TabibError('CONFIG_INVALID', `${setting}: ${file} does not hold user:password`)
}

async function readStore(etcd: Promise<Etcd>, prefix: string): Promise<StoreState> {
  const keys = await (await etcd).read(prefix)
  if (keys.size === 0) {
    throw new TabibError(
      'CONFIG_INVALID',
      `etcd holds nothing below ${prefix}; Patroni keeps its state elsewhere`,
      {
        suggestions: ['set cluster.namespace and TABIB_ETCD_URL to what Patroni’s configuration says'],
      },
    )
  }
  const json = (name: string): Record<string, unknown> => {
    try {
      const value = JSON.parse(keys.get(`${prefix}${name}`) ?? '{}')
      return typeof value === 'object' && value !== null ? value : {}
    } catch {
      return {}
    }
  }
  const sync = json('sync')
  const failover = json('failover')
  const { optime } = json('status')
  const text = (value: unknown): string | undefined =>
    typeof value === 'string' && value ? value : undefined
  return {
    leader: keys.get(`${prefix}leader`),
    sync: {
      leader: text(sync.leader),
      standbys: (text(sync.sync_standby) ?? '')
        .split(',')
        .map((name) => name.trim())
        .filter(Boolean),
    },
    lastLsn: typeof optime === 'number' && optime > 0 ? BigInt(optime) : undefined,
    pending:
      text(failover.member) || text(failover.candidate) || text(failover.leader)
        ? { candidate: text(failover.member) ?? text(failover.candidate), leader: text(failover.leader) }
        : undefined,
    systemIdentifier: keys.get(`${prefix}initialize`),
  }
}

type Asked = Pick<MemberState, 'nextXid' | 'takesWrites' | 'diskFull'>
const UNASKED: Asked = { nextXid: undefined, takesWrites: undefined, diskFull: undefined }

async function askPostgres(
  config: Pick<Config, 'databaseUrl' | 'cluster'>,
  member: ListedMember,
): Promise<Asked> {
  await using db = openMember(config, member)
  if (!db) return UNASKED
  try {
    const [row] = await db.query<{ xid: string; writes: boolean }>(
      'select pg_snapshot_xmax(pg_current_snapshot())::text as xid, not pg_is_in_recovery() as writes',
    )
    return { nextXid: row && BigInt(row.xid), takesWrites: row?.writes, diskFull: await hasFullDisk(db) }
  } catch {
    // A member whose Postgres is down, or that knows other logins, is judged by its position alone.
    return UNASKED
  }
}

async function reading<T>(work: Promise<T>): Promise<Reading<T>> {
  try {
    return { read: true, value: await work }
  } catch (error) {
    if (!(error instanceof TabibError)) throw error
    return { read: false, error }
  }
}
