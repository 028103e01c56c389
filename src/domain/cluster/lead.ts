import { setTimeout as delay } from 'node:timers/promises'
import type { Etcd } from '../../adapters/etcd/client.ts'
import type { Nats } from '../../adapters/nats/client.ts'
import { openPatroni } from '../../adapters/patroni/client.ts'
import type { Database } from '../../adapters/postgres/client.ts'
import type { Config } from '../../config.ts'
import { TabibError } from '../../errors.ts'
import { nearest } from '../../nearest.ts'
import { quote } from '../../render.ts'
import { SERVICES } from '../../service.ts'
import type { Operation } from '../audit/operation.ts'
import { type OutboxWhole, outboxWhole } from '../outbox/whole.ts'
import { judgePlace } from '../residency/judge.ts'
import { readTenancy } from '../residency/tenants.ts'
import { noteBegun } from './begun.ts'
import { type Candidate, diagnose } from './judge.ts'
import {
  type ClusterReader,
  type ClusterState,
  isConfigured,
  type MemberState,
  observeCluster,
  openMember,
  openStore,
  readCredentials,
  requireCluster,
  storePrefix,
} from './observe.ts'
import { type TakesWrites, takesWrites } from './writable.ts'

/** What changing a leader needs; an App is one. NATS is asked only where the configuration has it. */
export interface LeadSystems extends ClusterReader {
  config: ClusterReader['config'] & Pick<Config, 'natsUrl' | 'outbox'>
  db: Database
  nats: Nats
}

/** A change of leader, as it was planned. */
export interface LeadPlan {
  kind: 'switchover' | 'failover'
  scope: string
  systemIdentifier: string
  /** Who leads now; null in a failover. */
  leader: string | null
  candidate: string
  timeline: number | null
}

/** What became of it. */
export interface Led {
  scope: string
  leader: string
  /** From the request to the first answer of a primary that takes writes, in milliseconds. */
  writableAfterMs: number
  /** Members that stream from the new leader. */
  replicas: string[]
  /** Processes of tabib that reported to the former leader until its end, and those that have not to the new one. */
  clients: { seen: number; missing: string[] } | null
  /** Each outbox as the new leader has it; null where it was not asked. */
  outboxes: OutboxWhole[] | null
  /** What is not as it should be; empty when all is well. */
  amiss: string[]
}

/**
 * Plans that another member leads. A switchover wants a leader and a candidate that Patroni would let lead; a failover
 * wants that nobody leads, and takes any member that runs, the one with the least to lose when none is named.
 *
 * @throws TabibError CLUSTER_REFUSED, NOT_NEEDED, NOT_FOUND for a candidate that is no member.
 */
export function planLead(
  state: ClusterState,
  { kind, candidate: wanted }: { kind: LeadPlan['kind']; candidate: string | undefined },
): { plan: LeadPlan; candidate: Candidate } {
  const diagnosis = diagnose(state)
  const { verdict, says, leader, candidates, scope } = diagnosis
  const refuse = (message: string, suggestions = ['tabib cluster diagnose']) =>
    new TabibError('CLUSTER_REFUSED', `${scope}: ${message}`, { suggestions })
  if (verdict === 'divided') throw refuse(says)
  const unwatched = diagnosis.findings.find(({ id }) => id === 'cluster/leader-unwatched')
  if (unwatched) throw refuse(`${unwatched.object}: ${unwatched.message}`, [unwatched.fix!])
  const unlocked = diagnosis.findings.find(({ id }) => id === 'cluster/leader-unlocked')
  if (unlocked) throw refuse(`${unlocked.object} ${unlocked.message}`)
  if (kind === 'switchover' && leader === undefined) {
    throw refuse(`${says}; a switchover wants a leader`, ['tabib cluster failover --dry-run'])
  }
  if (wanted !== undefined && wanted === leader) {
    throw new TabibError('NOT_NEEDED', `${scope}: ${wanted} leads already`)
  }
  if (kind === 'failover' && leader !== undefined) {
    throw new TabibError(
      'NOT_NEEDED',
      `${scope}: ${leader} leads and answers; a failover is for when nobody does`,
      {
        suggestions: ['tabib cluster switchover --dry-run'],
      },
    )
  }
  if (state.store?.read === false) throw refuse(`${state.store.error.message}; nobody can be made to lead`)
  const [best] = candidates.filter((one) => (kind === 'switchover' ? one.maySucceed : one.canBeMade))
  const candidate = wanted === undefined ? best : candidates.find(({ name }) => name === wanted)
  if (!candidate && wanted !== undefined) {
    const names = state.members.map(({ name }) => name)
    const meant = nearest(wanted, names)
    throw new TabibError('NOT_FOUND', `${scope} has no member "${wanted}"; it has ${names.join(', ')}`, {
      suggestions: meant === undefined ? [] : [`tabib cluster ${kind} --candidate ${quote(meant)} --dry-run`],
    })
  }
  if (!candidate || !(kind === 'switchover' ? candidate.maySucceed : candidate.canBeMade)) {
    const why = (candidate ? [candidate] : candidates).map(
      ({ name, whyNot }) => `${name} ${whyNot.join(', ')}`,
    )
    throw refuse(`nobody can take over: ${why.join('; ') || 'there is no other member'}`)
  }
  const own = state.members.find(({ name }) => name === candidate.name)?.own
  return {
    candidate,
    plan: {
      kind,
      scope,
      systemIdentifier: state.systemIdentifier,
      leader: leader ?? null,
      candidate: candidate.name,
      timeline: own?.read ? (own.value.timeline ?? null) : null,
    },
  }
}

/** The Postgres of one member, whether it leads or not. @throws TabibError CONFIG_INVALID when no database is configured. */
export function memberDatabase(
  config: Pick<Config, 'databaseUrl' | 'cluster'>,
  { members }: ClusterState,
  name: string,
): Database {
  const member = members.find((one) => one.name === name)
  const db = member && openMember(config, member)
  if (db) return db
  const why =
    config.databaseUrl === undefined
      ? 'no database is configured'
      : member && !member.configured
        ? `its Postgres is at ${member.host}, which neither database.url nor cluster.patroni names, and no password is sent there`
        : 'it tells no host'
  throw new TabibError('CONFIG_INVALID', `${name} cannot be asked: ${why}`, {
    suggestions: [
      'export TABIB_DATABASE_URL=postgres://<user>@<host>,<host>,<host>/<database>',
      'docs/cluster.md',
    ],
  })
}

/**
 * Whether every tenant allows the region that the candidate is tagged with; asked of the candidate's own Postgres,
 * since the primary may be gone. Nothing is judged where the configuration knows no regions.
 *
 * @throws TabibError RESIDENCY_REFUSED with every reason, and when the tenants cannot be read.
 */
export async function assertRegion(
  app: ClusterReader,
  state: ClusterState,
  candidate: string,
): Promise<void> {
  const { residency } = app.config
  if (residency === undefined) return
  const member = state.members.find(({ name }) => name === candidate)!
  const refused = (message: string) =>
    new TabibError('RESIDENCY_REFUSED', message, {
      suggestions: ['tabib residency check'],
      ref: 'runbooks/billing/fm-22-residency-drift-in-recovery.md',
    })
  await using db = memberDatabase(app.config, state, candidate)
  const tenancy = await readTenancy({ db }).catch((error: Error) => {
    throw refused(`the tenants’ allowlists cannot be read on ${candidate}: ${error.message}`)
  })
  const reasons = judgePlace(
    {
      object: `member ${candidate}`,
      region: member.tags.region,
      whenUntagged: `patronictl reload ${state.scope} ${candidate}    # with tags: { region: <region> } in its configuration`,
    },
    { regions: Object.keys(residency.regions), tenants: tenancy.tenants },
  )
  if (reasons.length > 0)
    throw refused(reasons.map(({ object, message }) => `${object}: ${message}`).join('\n'))
}

// A key of the store outlives who made it for so long.
const CLAIM_S = 60
const VERIFY_MS = 60_000
// A process looks for its leader for five seconds and reports every two.
const CLIENTS_MS = 15_000
const POLL_MS = 100
const REFUSED_MS = 10_000

/**
 * Makes the candidate lead, and looks whether it does: one writable leader, the old one fenced, replication back, tabib's
 * processes at work with it, each outbox whole. One operator at a time, by a key in the store. A failover waits until the lock of a leader that does not answer has run
 * out; one that is renewed meanwhile belongs to a leader that lives, and nothing is done. An `operation` is noted in the
 * store before Patroni is asked, for whoever comes after a process that died (`takeBegun`).
 *
 * @throws TabibError LOCKED naming who is at it; CLUSTER_REFUSED with Patroni's words; TIMED_OUT.
 */
export async function lead(
  app: LeadSystems,
  plan: LeadPlan,
  { by, signal, operation }: { by: string; signal: AbortSignal; operation?: Operation | undefined },
): Promise<Led> {
  const cluster = requireCluster(app.config)
  const { patroni: urls, etcd, credentialsFile, namespace } = cluster
  const fetch = app.fetch(undefined, cluster.tls)
  const credentials =
    credentialsFile === undefined
      ? undefined
      : await readCredentials('cluster.credentialsFile', credentialsFile)
  const store = etcd.length === 0 ? undefined : await openStore(app, cluster)
  await using _alone = store && (await claim(store, { ...plan, namespace, by }))
  const state =
    plan.kind === 'failover' ? await lockRunsOut(app, plan, signal) : await observeMember(app, plan.candidate)
  const member = state.members.find(({ name }) => name === plan.candidate)
  if (!member)
    throw new TabibError('CLUSTER_REFUSED', `${plan.candidate} is no member of ${plan.scope} any more`)
  const apiUrl = await askedMember(app, plan, member)
  if (operation && store) await noteBegun(store, { namespace, scope: plan.scope }, operation)
  const startedAt = performance.now()
  const patroni = openPatroni({ urls, fetch, credentials })
  await asked(app, plan, signal, () =>
    patroni.lead({ name: member.name, apiUrl }, { leader: plan.leader ?? undefined }),
  )
  return verify(app, plan, { startedAt, signal })
}

/** Asks; a failover once more where Patroni refuses a candidate that is about to start again or to follow another. */
async function asked(
  app: ClusterReader,
  { kind, scope, candidate }: LeadPlan,
  signal: AbortSignal,
  ask: () => Promise<unknown>,
): Promise<void> {
  const deadline = performance.now() + REFUSED_MS
  for (;;) {
    try {
      await ask()
      return
    } catch (error) {
      const mayPass = kind === 'failover' && error instanceof TabibError && error.code === 'CLUSTER_REFUSED'
      if (!mayPass || performance.now() > deadline) throw error
      const { leader } = diagnose(await observeCluster(app))
      if (leader === candidate) return
      if (leader !== undefined) throw new TabibError('NOT_NEEDED', `${scope}: ${leader} leads meanwhile`)
    }
    await delay(POLL_MS * 5, undefined, { signal })
  }
}

/**
 * The REST API that is asked for the change: the candidate's where the configuration names its host, else that of a
 * configured member of this very cluster; any of them passes it on. Where a list may lie no credentials go.
 */
export async function askedMember(app: ClusterReader, plan: LeadPlan, member: MemberState): Promise<string> {
  if (URL.canParse(member.apiUrl) && isConfigured(app.config, new URL(member.apiUrl).hostname))
    return member.apiUrl
  const { patroni: urls, tls } = requireCluster(app.config)
  const patroni = openPatroni({ urls, fetch: app.fetch(undefined, tls), timeoutMs: 2_000 })
  for (const url of urls) {
    const own = await patroni.node(url).catch(() => undefined)
    if (own?.scope === plan.scope && own.systemIdentifier === plan.systemIdentifier) return url
  }
  throw new TabibError(
    'CLUSTER_REFUSED',
    `no member that cluster.patroni names answers for ${plan.scope}, and ${member.name} is at ${member.apiUrl}, which it does not name`,
    { suggestions: ['docs/cluster.md'] },
  )
}

async function claim(
  store: Etcd,
  { scope, kind, namespace, by }: LeadPlan & { namespace: string; by: string },
): Promise<AsyncDisposable> {
  const key = `/tabib/lead${storePrefix(namespace, scope)}claim`
  const taken = await store.claim(key, `${by}, ${kind}`, { ttlS: CLAIM_S })
  if (taken.held) return taken
  throw new TabibError('LOCKED', `${scope} is taken: ${taken.by}`, {
    suggestions: ['tabib cluster status'],
    retryable: true,
  })
}

async function lockRunsOut(
  app: ClusterReader,
  { scope, candidate }: LeadPlan,
  signal: AbortSignal,
): Promise<ClusterState> {
  const startedAt = performance.now()
  for (;;) {
    const state = await observeMember(app, candidate)
    const { leader } = diagnose(state)
    if (leader !== undefined) throw new TabibError('NOT_NEEDED', `${scope}: ${leader} leads meanwhile`)
    const held = state.store?.read
      ? state.store.value.leader
      : state.members.find(({ role }) => role === 'leader')?.name
    if (held === undefined) return state
    const ttlS = state.settings.read ? state.settings.value.ttlS : 30
    if (performance.now() - startedAt > (ttlS + 5) * 1_000) {
      throw new TabibError(
        'TIMED_OUT',
        `${held} renews its lock though it does not answer here: it lives, and nothing was done`,
        { suggestions: ['tabib cluster diagnose'], retryable: true },
      )
    }
    await delay(POLL_MS * 5, undefined, { signal })
  }
}

async function verify(
  app: LeadSystems,
  plan: LeadPlan,
  { startedAt, signal }: { startedAt: number; signal: AbortSignal },
): Promise<Led> {
  const { scope, candidate } = plan
  let writableAfterMs: number | undefined
  let unwritable: string | undefined
  // Long enough for a former leader to be rewound and to stream again.
  const deadline = startedAt + VERIFY_MS
  for (;;) {
    const state = await observeMember(app, candidate)
    const diagnosis = diagnose(state)
    const member = state.members.find(({ name }) => name === candidate)
    if (diagnosis.leader === candidate && writableAfterMs === undefined) {
      const answer = await writable(app, state, candidate)
      if (answer.value === 1) writableAfterMs = Math.round(performance.now() - startedAt)
      unwritable = answer.why
    }
    const followers = member?.own.read ? member.own.value.replicas : []
    const inState = (pattern: RegExp) =>
      followers.filter((one) => pattern.test(one.state)).map(({ name }) => name)
    const replicas = inState(/streaming/)
    const amiss = [
      ...(diagnosis.leader === candidate ? [] : [diagnosis.says]),
      ...(writableAfterMs === undefined
        ? [`${candidate} takes no writes${unwritable === undefined ? '' : `: ${unwritable}`}`]
        : []),
      ...(replicas.length === 0 ? [`nobody streams from ${candidate}`] : []),
      ...inState(/startup|catchup/).map((name) => `${name} catches up still`),
    ]
    // The old leader may be gone for good; whoever answers must follow.
    const lagging = diagnosis.findings.filter(({ id }) =>
      /^cluster\/(not-streaming|timeline-behind|member-unfit)$/.test(id),
    )
    if ((amiss.length === 0 && lagging.length === 0) || performance.now() > deadline) {
      if (writableAfterMs === undefined) {
        throw new TabibError('TIMED_OUT', `${scope}: ${amiss.join('; ')} after 60 s`, {
          suggestions: ['tabib cluster diagnose'],
          retryable: true,
        })
      }
      const behind = lagging.map(({ object, message }) => `${object} ${message}`)
      const works = await verifyClients(app, state, { candidate, signal })
      return {
        ...{ scope, leader: candidate, writableAfterMs, replicas },
        ...works,
        amiss: [...amiss, ...behind, ...works.amiss],
      }
    }
    await delay(POLL_MS, undefined, { signal })
  }
}

/** The cluster, looked at up to three times: where nobody reads the list in time, members go by their addresses. */
export async function observeMember(app: ClusterReader, candidate: string): Promise<ClusterState> {
  for (let look = 1; ; look += 1) {
    const state = await observeCluster(app)
    if (look === 3 || state.members.some(({ name }) => name === candidate)) return state
  }
}

/** What a new leader is for: the processes work with it, and each outbox is whole. */
async function verifyClients(
  app: LeadSystems,
  state: ClusterState,
  { candidate, signal }: { candidate: string; signal: AbortSignal },
): Promise<Pick<Led, 'clients' | 'outboxes' | 'amiss'>> {
  const unasked = { clients: null, outboxes: null }
  if (takesNoClients(app, state)) return { ...unasked, amiss: [] }
  try {
    const clients = await processesBack(app, signal)
    const outboxes =
      app.config.natsUrl === undefined
        ? null
        : await Promise.all(SERVICES.map((service) => outboxWhole(app, { service })))
    return {
      clients,
      outboxes,
      amiss: [
        ...clients.missing.map((process) => `${process} does not work with ${candidate}`),
        ...(outboxes ?? []).flatMap(({ service, compared, ghosts }) => [
          ...(compared === null
            ? [`${service}: NATS does not answer, its stream was not held against the outbox`]
            : []),
          ...(ghosts.length > 0
            ? [
                `${service}: ${ghosts.length} events were published whose rows are lost: ${ghosts.slice(0, 3).join(', ')}`,
              ]
            : []),
        ]),
      ],
    }
  } catch (error) {
    // The leader is changed, whatever cannot be looked at.
    if (!(error instanceof TabibError)) throw error
    return { ...unasked, amiss: [`clients and outboxes were not looked at: ${error.message}`] }
  }
}

/**
 * Waits until every process has reported to the new leader that reported to the former one until its end: within ten
 * seconds of the last report of all. One that was killed in that time is missing too.
 */
async function processesBack({ db }: LeadSystems, signal: AbortSignal): Promise<NonNullable<Led['clients']>> {
  const [now] = await db.query<{ at: string; last: string | null }>(
    'select clock_timestamp()::text as at, max(at)::text as last from tabib.process',
  )
  const deadline = performance.now() + CLIENTS_MS
  for (;;) {
    const seen = await db.query<{ process: string; back: boolean }>(
      `select what || ' ' || instance as process, at > $1::timestamptz as back from tabib.process
       where at > $1::timestamptz or at > $2::timestamptz - interval '10 s' order by 1`,
      [now!.at, now!.last],
    )
    const missing = seen.filter(({ back }) => !back).map(({ process }) => process)
    if (missing.length === 0 || performance.now() > deadline) return { seen: seen.length, missing }
    await delay(POLL_MS, undefined, { signal })
  }
}

// The leader of a cluster that stands by for another takes none.
const takesNoClients = (app: ClusterReader, { settings }: ClusterState): boolean =>
  app.config.databaseUrl === undefined || (settings.read && settings.value.standbyCluster)

async function writable(app: ClusterReader, state: ClusterState, candidate: string): Promise<TakesWrites> {
  const member = state.members.find(({ name }) => name === candidate)
  if (takesNoClients(app, state) || !member?.configured) return { value: 1 }
  await using db = memberDatabase(app.config, state, candidate)
  return await takesWrites({ db })
}
