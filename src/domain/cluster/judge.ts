import type { PatroniNode } from '../../adapters/patroni/client.ts'
import type { Finding } from '../../finding.ts'
import type { ClusterState, MemberState } from './observe.ts'

/** Whether a member would lead if there were no leader now, and what would be lost with it. */
export interface Candidate {
  name: string
  /** True where Patroni would let it, by itself. */
  wouldLead: boolean
  /** Why not, in words; empty when it would. */
  whyNot: string[]
  /** Whether an operator may still make it the leader: it runs, is of this cluster, and may hold data. */
  canBeMade: boolean
  region: string | undefined
  /** WAL in bytes that the furthest known position has and it has not; undefined where its own is unknown. */
  lostBytes: bigint | undefined
  /** Transactions in them; undefined where nobody who has them can be asked. */
  lostTransactions: bigint | undefined
  /** True where whatever was acknowledged is on it: it is a synchronous standby. */
  keepsAcknowledged: boolean
}

export interface Diagnosis {
  scope: string
  /** Who leads and says so itself. */
  leader: string | undefined
  /** `led`, `electing` (somebody will within the time to live), `leaderless` (nobody will by itself), `divided` (two do). */
  verdict: 'led' | 'electing' | 'leaderless' | 'divided'
  /** One sentence for the one who was woken. */
  says: string
  /** Every member that does not lead, the one that would or should lead first. */
  candidates: Candidate[]
  findings: Finding[]
  /** What to paste, when something is to be done now. */
  command: string | undefined
}

/**
 * Who leads, who would, and why not the others: Patroni's own rules (3.0, `_is_healthiest_node` and its callers in
 * patroni/ha.py) over what the members and the store say. Pure.
 */
export function diagnose(state: ClusterState): Diagnosis {
  const { scope } = state
  const leaders = state.members.filter(leads)
  const leader = leaders.length === 1 ? leaders[0] : undefined
  const candidates = rank(state.members.filter((one) => one !== leader).map((one) => candidacy(state, one)))
  const held = lockOf(state)
  const verdict =
    leaders.length > 1 ? 'divided' : leader ? 'led' : electing(state, candidates) ? 'electing' : 'leaderless'
  // Without the store nobody can be made to lead.
  const [best] = state.store?.read === false ? [] : candidates.filter(({ canBeMade }) => canBeMade)
  const command =
    verdict === 'leaderless' && best
      ? `tabib cluster failover --candidate ${best.name} --confirm ${scope} --reason "<why>"`
      : undefined
  const says = {
    led: `${leader?.name} leads`,
    electing:
      held === undefined
        ? `nobody leads; ${candidates[0]?.name} will within seconds`
        : `${held} holds the lock and does not lead; it runs out within ${ttlOf(state)} s, then ${candidates[0]?.name} will lead`,
    leaderless: best
      ? `nobody leads and nobody will by itself; ${best.name} has the most`
      : `nobody leads, and nobody can be made to: ${state.store?.read === false ? 'the store has no majority' : 'no member is fit'}`,
    divided: `${leaders.map(({ name }) => name).join(' and ')} both say that they lead: stop one of them now`,
  }[verdict]
  return {
    scope,
    leader: leader?.name,
    verdict,
    says,
    candidates,
    findings: [
      ...judgeLeadership(state, verdict, leaders, command),
      ...judgeStore(state, leader),
      ...judgeMembers(state, leader, candidates),
    ],
    command,
  }
}

/** What would be lost with a member, for people. */
export function lossText({ lostBytes, lostTransactions, keepsAcknowledged }: Candidate): string {
  if (keepsAcknowledged) return 'nothing acknowledged'
  if (lostBytes === undefined) return 'unknown'
  if (lostBytes === 0n) return 'nothing known'
  const transactions =
    lostTransactions === undefined ? 'transactions unknown' : `${lostTransactions} transactions`
  return `${lostBytes} bytes, ${transactions}`
}

const leads = ({ own }: MemberState): boolean =>
  own.read &&
  (own.value.role === 'primary' || own.value.role === 'standby_leader') &&
  own.value.state === 'running'

/** Who holds the leader key: by the store, else by the list that a member made of it. */
function lockOf({ store, members }: ClusterState): string | undefined {
  if (store?.read) return store.value.leader
  return members.find(({ role }) => role === 'leader' || role === 'standby_leader')?.name
}

const ttlOf = ({ settings }: ClusterState): number => (settings.read ? settings.value.ttlS : 30)

// No leader, or one that is gone: the others wait for its key to run out and then choose.
function electing(state: ClusterState, candidates: readonly Candidate[]): boolean {
  if (state.settings.read && state.settings.value.paused) return false
  if (state.store?.read === false) return false
  return candidates.some(({ wouldLead }) => wouldLead)
}

function candidacy(state: ClusterState, member: MemberState): Candidate {
  const own = member.own.read ? member.own.value : undefined
  const reference = furthestLsn(state)
  const lostBytes =
    own?.lsn === undefined || reference === undefined ? undefined : atLeastZero(reference - own.lsn)
  const synchronous = state.settings.read && state.settings.value.synchronous
  const listed = state.store?.read
    ? namedBySync(state.store.value.sync, member.name)
    : member.role === 'sync_standby'
  const impossible = cannotLead(state, member)
  const whyNot = [...impossible, ...mayNotLead(state, member, lostBytes)]
  return {
    name: member.name,
    wouldLead: whyNot.length === 0,
    whyNot,
    canBeMade: impossible.length === 0,
    region: typeof member.tags.region === 'string' ? member.tags.region : undefined,
    lostBytes,
    lostTransactions: lostTransactions(state, member, lostBytes),
    keepsAcknowledged: synchronous && listed,
  }
}

const namedBySync = (
  { leader, standbys }: { leader: string | undefined; standbys: string[] },
  name: string,
) => leader === name || standbys.includes(name)

/** Why not even an operator can make it the leader. */
function cannotLead(state: ClusterState, { own }: MemberState): string[] {
  if (!own.read) return [`does not answer (${own.error.message.replace(/^Patroni gave no answer: /, '')})`]
  const { scope, systemIdentifier, state: postgres, lsn } = own.value
  if (scope !== state.scope) return [`answers for another cluster, "${scope}"`]
  if (systemIdentifier !== undefined && systemIdentifier !== state.systemIdentifier) {
    return [`has another database (system identifier ${systemIdentifier}, not ${state.systemIdentifier})`]
  }
  if (postgres !== 'running') return [`its Postgres does not run (${postgres})`]
  return lsn === undefined ? ['does not say how far its WAL reaches'] : []
}

/** Why Patroni would not make it the leader by itself, though it runs. */
function mayNotLead(state: ClusterState, member: MemberState, lostBytes: bigint | undefined): string[] {
  if (!member.own.read) return []
  const own = member.own.value
  const reasons: string[] = []
  if (truthy(member.tags.nofailover) || truthy(own.tags.nofailover)) reasons.push('is tagged nofailover')
  if (state.settings.read) {
    const { paused, maximumLag, checkTimeline, synchronous, ttlS } = state.settings.value
    if (paused) reasons.push('the cluster is paused: Patroni changes no leader')
    if (lostBytes !== undefined && lostBytes > maximumLag) {
      reasons.push(`lacks ${lostBytes} bytes of WAL; maximum_lag_on_failover is ${maximumLag}`)
    }
    const newest = newestTimeline(state)
    if (checkTimeline && own.timeline !== undefined && own.timeline < newest) {
      reasons.push(`is on timeline ${own.timeline}, the cluster on ${newest}`)
    }
    if (synchronous && state.store?.read) {
      const { sync } = state.store.value
      if (sync.leader !== undefined && !namedBySync(sync, member.name)) {
        reasons.push(
          `is not named in the sync key, which names ${[sync.leader, ...sync.standbys].join(' and ')}${sync.standbys.length === 0 ? ' and no synchronous standby' : ''}`,
        )
      }
    }
    const seen = own.dcsLastSeen
    if (seen !== undefined && state.nowMs / 1_000 - seen > ttlS) {
      reasons.push(`has not reached the store for ${Math.round(state.nowMs / 1_000 - seen)} s`)
    }
  }
  if (state.store?.read === false) reasons.push('the store has no majority: nobody can take the leader key')
  const pending = state.store?.read ? state.store.value.pending : undefined
  if (pending?.candidate !== undefined && pending.candidate !== member.name) {
    reasons.push(`a change to ${pending.candidate} was asked for and waits`)
  }
  const ahead = rivals(state).find((one) => one !== member && lsnOf(one)! > (own.lsn ?? 0n))
  if (ahead && reasons.length === 0) reasons.push(`${ahead.name} has more`)
  return reasons
}

/** Those that Patroni compares with: they answer, run, and may lead. */
function rivals(state: ClusterState): MemberState[] {
  const synchronous = state.settings.read && state.settings.value.synchronous
  const sync = state.store?.read ? state.store.value.sync : undefined
  return state.members.filter(
    (one) =>
      lsnOf(one) !== undefined &&
      !leads(one) &&
      cannotLead(state, one).length === 0 &&
      !truthy(one.tags.nofailover) &&
      (!synchronous || sync?.leader === undefined || namedBySync(sync, one.name)),
  )
}

const lsnOf = ({ own }: MemberState): bigint | undefined => (own.read ? own.value.lsn : undefined)

/** The furthest position that anybody knows of: a member, or the leader when it last wrote its own to the store. */
function furthestLsn({ members, store }: ClusterState): bigint | undefined {
  const known = [...members.map(lsnOf), store?.read ? store.value.lastLsn : undefined]
  return known
    .filter((lsn) => lsn !== undefined)
    .reduce<bigint | undefined>((a, b) => (a !== undefined && a > b ? a : b), undefined)
}

function newestTimeline({ members }: ClusterState): number {
  return Math.max(0, ...members.map(({ own }) => (own.read ? (own.value.timeline ?? 0) : 0)))
}

function lostTransactions(
  { members }: ClusterState,
  { nextXid, own }: MemberState,
  lostBytes: bigint | undefined,
): bigint | undefined {
  if (lostBytes === 0n) return 0n
  if (nextXid === undefined || !own.read) return undefined
  const ahead = members.filter(
    (one) => one.nextXid !== undefined && (lsnOf(one) ?? 0n) >= (own.value.lsn ?? 0n) + (lostBytes ?? 0n),
  )
  const [furthest] = ahead.map((one) => one.nextXid!).sort((a, b) => (a > b ? -1 : 1))
  return furthest === undefined ? undefined : atLeastZero(furthest - nextXid)
}

// Who would lead first; then who can be made to, with the least to lose.
function rank(candidates: Candidate[]): Candidate[] {
  const lost = ({ lostBytes }: Candidate) => lostBytes ?? 2n ** 63n
  return candidates.toSorted(
    (a, b) =>
      Number(b.wouldLead) - Number(a.wouldLead) ||
      Number(b.canBeMade) - Number(a.canBeMade) ||
      Number(b.keepsAcknowledged) - Number(a.keepsAcknowledged) ||
      (lost(a) < lost(b) ? -1 : lost(a) > lost(b) ? 1 : 0),
  )
}

function judgeLeadership(
  state: ClusterState,
  verdict: Diagnosis['verdict'],
  leaders: readonly MemberState[],
  command: string | undefined,
): Finding[] {
  const { scope } = state
  const object = `cluster ${scope}`
  const sync = state.store?.read ? state.store.value.sync : undefined
  if (verdict === 'divided') {
    return [
      finding({
        id: 'cluster/two-leaders',
        severity: 'critical',
        object,
        message: `${leaders.map(({ name, host, port }) => `${name} (${host}:${port})`).join(' and ')} both take writes; the store names ${lockOf(state) ?? 'nobody'}`,
        evidence: { leaders: leaders.map(({ name }) => name), lock: lockOf(state) },
        fix: `patronictl restart ${scope} ${leaders.find(({ name }) => name !== lockOf(state))?.name}`,
      }),
    ]
  }
  if (verdict === 'led') return []
  const dead = sync?.leader !== undefined && !sync.standbys.some((name) => answers(state, name))
  const nameless = verdict === 'leaderless' && state.settings.read && state.settings.value.synchronous && dead
  return [
    finding({
      id: 'cluster/no-leader',
      severity: 'critical',
      object,
      message:
        verdict === 'electing'
          ? 'nobody leads at this moment'
          : 'nobody leads, and Patroni will choose nobody: writes stop until somebody is made to',
      evidence: { lock: lockOf(state) ?? null },
      fix: command ?? null,
    }),
    ...(nameless
      ? [
          finding({
            id: 'cluster/sync-names-nobody',
            severity: 'critical',
            object,
            message:
              `synchronous mode lets only those lead whom the sync key names: ${sync?.leader}` +
              (sync?.standbys.length ? `, ${sync.standbys.join(', ')}` : ', and no standby') +
              '; none of them answers. It looks so when a leader dies before its first standby has caught up, for instance right after a switchover',
            evidence: { sync },
            fix: command ?? null,
          }),
        ]
      : []),
  ]
}

const answers = ({ members }: ClusterState, name: string): boolean =>
  members.some((one) => one.name === name && one.own.read && one.own.value.state === 'running')

function judgeStore(state: ClusterState, leader: MemberState | undefined): Finding[] {
  const { scope, store, settings } = state
  const object = `cluster ${scope}`
  const found: Finding[] = []
  if (settings.read && settings.value.paused) {
    found.push(
      finding({
        id: 'cluster/paused',
        severity: leader ? 'warning' : 'critical',
        object,
        message: 'the cluster is paused: if its leader dies, nobody takes over',
        fix: `patronictl resume ${scope}`,
      }),
    )
  }
  if (!settings.read) {
    found.push(unread('cluster/settings-unread', object, 'the dynamic configuration', settings.error.message))
  }
  if (store === undefined) {
    found.push(
      finding({
        id: 'cluster/store-unknown',
        severity: 'info',
        object,
        message: 'no etcd is configured: who may take over in synchronous mode is told by the members alone',
        fix: 'export TABIB_ETCD_URL=http://<host>:2379',
      }),
    )
    return found
  }
  if (!store.read) {
    found.push(
      finding({
        id: 'cluster/store-no-majority',
        severity: 'critical',
        object,
        message: `${store.error.message}: without a majority the leader steps down within ${ttlOf(state)} s and nobody follows it`,
        fix: store.error.suggestions[0] ?? null,
      }),
    )
    return found
  }
  const { sync, pending, systemIdentifier } = store.value
  if (leader && settings.read && settings.value.synchronous && sync.standbys.length === 0) {
    found.push(
      finding({
        id: 'cluster/sync-missing',
        severity: 'error',
        object,
        message: `no synchronous standby: if ${leader.name} dies now, nobody may take over`,
        evidence: { sync },
        fix: `patronictl list ${scope}    # does a replica catch up and become Sync Standby?`,
      }),
    )
  }
  if (pending?.candidate !== undefined && !answers(state, pending.candidate)) {
    found.push(
      finding({
        id: 'cluster/change-pending',
        severity: 'error',
        object,
        message: `a change of leader to ${pending.candidate} was asked for, and it does not answer: the others wait for it`,
        evidence: { pending },
        fix: `patronictl flush ${scope} switchover`,
      }),
    )
  }
  if (systemIdentifier !== undefined && systemIdentifier !== state.systemIdentifier) {
    found.push(
      finding({
        id: 'cluster/other-database',
        severity: 'critical',
        object,
        message: `the store belongs to the database ${systemIdentifier}, the members have ${state.systemIdentifier}`,
        evidence: { store: systemIdentifier, members: state.systemIdentifier },
      }),
    )
  }
  return found
}

function judgeMembers(
  state: ClusterState,
  leader: MemberState | undefined,
  candidates: readonly Candidate[],
): Finding[] {
  const { scope } = state
  const streams = leader?.own.read ? leader.own.value.replicas : []
  const found = candidates.flatMap(({ name, lostBytes }): Finding[] => {
    const member = state.members.find((one) => one.name === name)!
    const object = `member ${name}`
    const [impossible] = cannotLead(state, member)
    if (!member.own.read || impossible !== undefined) {
      const rewinding = member.own.read && member.own.value.state !== 'running' && leader
      return [
        finding({
          id: member.own.read ? 'cluster/member-unfit' : 'cluster/member-silent',
          severity: 'error',
          object,
          message: `${impossible}${rewinding ? '; a former leader whose rewind fails looks so' : ''}`,
          fix: rewinding
            ? `patronictl reinit ${scope} ${name}`
            : `ssh ${member.host} systemctl status patroni`,
        }),
      ]
    }
    const own: PatroniNode = member.own.value
    if (!leader || leads(member)) return []
    if (!streams.some((one) => one.name === name && one.state === 'streaming')) {
      const old = own.timeline !== undefined && own.timeline < newestTimeline(state)
      return [
        finding({
          id: old ? 'cluster/timeline-behind' : 'cluster/not-streaming',
          severity: 'error',
          object,
          message: old
            ? `is on timeline ${own.timeline} and the leader on ${newestTimeline(state)}: it follows nobody`
            : `does not stream from ${leader.name}`,
          evidence: { timeline: own.timeline, lostBytes },
          fix: `patronictl reinit ${scope} ${name}`,
        }),
      ]
    }
    if (state.settings.read && lostBytes !== undefined && lostBytes > state.settings.value.maximumLag) {
      return [
        finding({
          id: 'cluster/lag-over-maximum',
          severity: 'warning',
          object,
          message: `lacks ${lostBytes} bytes of WAL, more than maximum_lag_on_failover (${state.settings.value.maximumLag}) lets lead`,
          evidence: { lostBytes },
          fix: `patronictl list ${scope}    # does the lag shrink?`,
        }),
      ]
    }
    return []
  })
  if (leader && candidates.length > 0 && !candidates.some(({ wouldLead }) => wouldLead)) {
    found.push(
      finding({
        id: 'cluster/no-successor',
        severity: 'error',
        object: `cluster ${scope}`,
        message: `if ${leader.name} dies now, nobody takes over: ${candidates.map(({ name, whyNot }) => `${name} ${whyNot[0]}`).join('; ')}`,
      }),
    )
  }
  if (candidates.length === 0) {
    found.push(
      finding({
        id: 'cluster/no-replica',
        severity: 'error',
        object: `cluster ${scope}`,
        message: 'it has one member: if that dies, nobody takes over',
        fix: `patronictl list ${scope}`,
      }),
    )
  }
  return found
}

const truthy = (tag: unknown): boolean => tag === true || tag === 'true' || tag === 'on' || tag === 1

const atLeastZero = (value: bigint): bigint => (value > 0n ? value : 0n)

const unread = (id: string, object: string, what: string, why: string): Finding =>
  finding({ id, severity: 'error', object, message: `${what} could not be read: ${why}` })

function finding(
  given: Pick<Finding, 'id' | 'severity' | 'object' | 'message'> & { evidence?: object; fix?: string | null },
): Finding {
  return {
    check: 'cluster diagnose',
    runbook: 'runbooks/billing/fm-01-postgres-primary-down.md',
    cacheKey: null,
    waived: false,
    fix: null,
    ...given,
    evidence: { ...given.evidence },
  }
}
