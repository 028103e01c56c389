import { readFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { openEtcd } from '../../adapters/etcd/client.ts'
import { openPatroni } from '../../adapters/patroni/client.ts'
import type { Database } from '../../adapters/postgres/client.ts'
import type { Config } from '../../config.ts'
import { TabibError } from '../../errors.ts'
import { nearest } from '../../nearest.ts'
import { quote } from '../../render.ts'
import { judgePlace } from '../residency/judge.ts'
import { readTenancy } from '../residency/tenants.ts'
import { type Candidate, diagnose } from './judge.ts'
import {
  type ClusterReader,
  type ClusterState,
  observeCluster,
  openMember,
  requireCluster,
} from './observe.ts'
import { takesWrites } from './writable.ts'

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
  { databaseUrl }: Pick<Config, 'databaseUrl'>,
  { members }: ClusterState,
  name: string,
): Database {
  const member = members.find((one) => one.name === name)
  const db = member && openMember(databaseUrl, member)
  if (db) return db
  throw new TabibError(
    'CONFIG_INVALID',
    `no database is configured, or ${name} tells no host: it cannot be asked`,
    { suggestions: ['export TABIB_DATABASE_URL=…'] },
  )
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
const POLL_MS = 100

/**
 * Makes the candidate lead, and looks whether it does: one writable leader, the old one fenced, replication back. One
 * operator at a time, by a key in the store. A failover waits until the lock of a leader that does not answer has run
 * out; one that is renewed meanwhile belongs to a leader that lives, and nothing is done.
 *
 * @throws TabibError LOCKED naming who is at it; CLUSTER_REFUSED with Patroni's words; TIMED_OUT.
 */
export async function lead(
  app: ClusterReader,
  plan: LeadPlan,
  { by, signal }: { by: string; signal: AbortSignal },
): Promise<Led> {
  const { patroni: urls, etcd, credentialsFile } = requireCluster(app.config)
  const fetch = app.fetch()
  const credentials = credentialsFile === undefined ? undefined : await readCredentials(credentialsFile)
  await using _alone = etcd.length === 0 ? undefined : await claim({ etcd, fetch }, plan, by)
  const state = plan.kind === 'failover' ? await lockRunsOut(app, plan, signal) : await observeCluster(app)
  const member = state.members.find(({ name }) => name === plan.candidate)
  if (!member)
    throw new TabibError('CLUSTER_REFUSED', `${plan.candidate} is no member of ${plan.scope} any more`)
  const startedAt = performance.now()
  await openPatroni({ urls, fetch, credentials }).lead(member, { leader: plan.leader ?? undefined })
  return verify(app, plan, { startedAt, signal })
}

async function readCredentials(file: string): Promise<string> {
  const text = (await readFile(file, 'utf8').catch((cause: NodeJS.ErrnoException) => cause.code ?? '')).trim()
  if (/^[^:\s]+:\S+$/.test(text)) return text
  throw new TabibError('CONFIG_INVALID', `cluster.credentialsFile: ${file} does not hold user:password`)
}

async function claim(
  { etcd, fetch }: { etcd: readonly string[]; fetch: ReturnType<ClusterReader['fetch']> },
  { scope, kind }: LeadPlan,
  by: string,
): Promise<AsyncDisposable> {
  const taken = await openEtcd({ urls: etcd, fetch }).claim(`/tabib/lead/${scope}`, `${by}, ${kind}`, {
    ttlS: CLAIM_S,
  })
  if (taken.held) return taken
  throw new TabibError('LOCKED', `${scope} is taken: ${taken.by}`, {
    suggestions: ['tabib cluster status'],
    retryable: true,
  })
}

async function lockRunsOut(
  app: ClusterReader,
  { scope }: LeadPlan,
  signal: AbortSignal,
): Promise<ClusterState> {
  const startedAt = performance.now()
  for (;;) {
    const state = await observeCluster(app)
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
  app: ClusterReader,
  plan: LeadPlan,
  { startedAt, signal }: { startedAt: number; signal: AbortSignal },
): Promise<Led> {
  const { scope, candidate } = plan
  let writableAfterMs: number | undefined
  // Long enough for a former leader to be rewound and to stream again.
  const deadline = startedAt + 60_000
  for (;;) {
    const state = await observeCluster(app)
    const diagnosis = diagnose(state)
    const member = state.members.find(({ name }) => name === candidate)
    if (diagnosis.leader === candidate)
      writableAfterMs ??= await writable(app, state, { candidate, startedAt })
    const followers = member?.own.read ? member.own.value.replicas : []
    const inState = (pattern: RegExp) =>
      followers.filter((one) => pattern.test(one.state)).map(({ name }) => name)
    const replicas = inState(/streaming/)
    const amiss = [
      ...(diagnosis.leader === candidate ? [] : [diagnosis.says]),
      ...(writableAfterMs === undefined ? [`${candidate} takes no writes`] : []),
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
      return { scope, leader: candidate, writableAfterMs, replicas, amiss: [...amiss, ...behind] }
    }
    await delay(POLL_MS, undefined, { signal })
  }
}

async function writable(
  app: ClusterReader,
  state: ClusterState,
  { candidate, startedAt }: { candidate: string; startedAt: number },
): Promise<number | undefined> {
  const elapsed = () => Math.round(performance.now() - startedAt)
  // The leader of a cluster that stands by for another takes none.
  if (app.config.databaseUrl === undefined || (state.settings.read && state.settings.value.standbyCluster)) {
    return elapsed()
  }
  await using db = memberDatabase(app.config, state, candidate)
  return (await takesWrites({ db })).value === 1 ? elapsed() : undefined
}
