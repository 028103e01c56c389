import { openEtcd } from '../../adapters/etcd/client.ts'
import type { Fetch } from '../../adapters/http/client.ts'
import {
  type ListedMember,
  openPatroni,
  type PatroniNode,
  type PatroniSettings,
} from '../../adapters/patroni/client.ts'
import { hostUrls, openDatabase } from '../../adapters/postgres/client.ts'
import type { ClusterConfig, Config } from '../../config.ts'
import { TabibError } from '../../errors.ts'

/** What was read, or why it could not be. */
export type Reading<T> = { read: true; value: T } | { read: false; error: TabibError }

/** One member: as the store lists it, as it says itself, and how far its Postgres is. */
export interface MemberState extends ListedMember {
  own: Reading<PatroniNode>
  /**
   * The next transaction id as its Postgres sees it: two members differ by the transactions that one lacks. Undefined
   * where it cannot be asked.
   */
  nextXid: bigint | undefined
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
  settings: Reading<PatroniSettings>
  /** Undefined where the configuration names no etcd. */
  store: Reading<StoreState> | undefined
  nowMs: number
}

/** What a cluster is read from; an App is one. */
export interface ClusterReader {
  config: Pick<Config, 'cluster' | 'databaseUrl' | 'residency'>
  fetch(): Fetch
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
  const { patroni: urls, etcd, namespace } = requireCluster(app.config)
  const fetch = app.fetch()
  const patroni = openPatroni({ urls, fetch, timeoutMs: LIMIT_MS })
  const [cluster, settings] = await Promise.all([patroni.cluster(), reading(patroni.settings())])
  const [members, store] = await Promise.all([
    Promise.all(
      cluster.members.map(async (member) => {
        const [own, nextXid] = await Promise.all([
          reading(patroni.node(member.apiUrl)),
          nextXidOf(app.config.databaseUrl, member),
        ])
        return { ...member, own, nextXid }
      }),
    ),
    etcd.length === 0
      ? undefined
      : reading(readStore({ etcd, fetch, prefix: `${namespace}/${cluster.scope}/` })),
  ])
  const { scope, systemIdentifier } = cluster
  return { scope, systemIdentifier, members, settings, store, nowMs: Date.now() }
}

/** The URL of the database on one member, by the credentials that the configuration has. */
export function memberUrl(databaseUrl: string, { host, port }: Pick<ListedMember, 'host' | 'port'>): string {
  const url = new URL(hostUrls(databaseUrl)[0]!)
  url.hostname = host
  url.port = String(port ?? 5432)
  return url.href
}

async function readStore({
  etcd,
  fetch,
  prefix,
}: {
  etcd: readonly string[]
  fetch: Fetch
  prefix: string
}): Promise<StoreState> {
  const keys = await openEtcd({ urls: etcd, fetch, timeoutMs: LIMIT_MS }).read(prefix)
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

async function nextXidOf(databaseUrl: string | undefined, member: ListedMember): Promise<bigint | undefined> {
  if (databaseUrl === undefined || member.host === '') return undefined
  await using db = openDatabase({
    url: memberUrl(databaseUrl, member),
    maxConnections: 1,
    connectTimeoutMs: LIMIT_MS,
    answerWithinMs: LIMIT_MS,
  })
  try {
    const [row] = await db.query<{ xid: string }>(
      'select pg_snapshot_xmax(pg_current_snapshot())::text as xid',
    )
    return row && BigInt(row.xid)
  } catch {
    // A member whose Postgres is down, or that knows other logins, is judged by its position alone.
    return undefined
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
