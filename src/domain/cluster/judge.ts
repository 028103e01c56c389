import type { PatroniNode } from '../../adapters/patroni/client.ts'
import type { TabibError } from '../../errors.ts'
import type { Finding } from '../../finding.ts'
import { quote } from '../../render.ts'
import type { ClusterState, MemberState } from './observe.ts'

/** Whether a member would lead if there were no leader now, and what would be lost with it. */
export interface Candidate {
  name: string
  /** True where Patroni would let it, by itself. */
  wouldLead: boolean
  /** Why not, in words; empty when it would. */
  whyNot: string[]
  /** Whether Patroni takes it as the aim of a switchover: as `wouldLead`, though another may have more. */
  maySucceed: boolean
  /** Whether an operator may still make it the leader: it runs, is of this cluster, and Patroni takes it as a candidate. */
  canBeMade: boolean
  region: string | undefined
  /** Whether it could lead and would fail at the first write. Undefined where nobody can tell. */
  diskFull: boolean | undefined
  /** WAL in bytes that the furthest known position has and it has not; undefined where its own is unknown. */
  lostBytes: bigint | undefined
  /** Transactions in them; undefined where nobody who has them can be asked. */
  lostTransactions: bigint | undefined
  /** Of its WAL; what lies on an older one than others have is not the cluster's history. */
  timeline: number | undefined
  /** True where whatever was acknowledged is on it: it is a synchronous standby, or has the most in strict mode. */
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
  const leaders = state.members.filter((one) => leads(state, one))
  const leader = leaders.length === 1 ? leaders[0] : undefined
  const candidates = rank(state.members.filter((one) => one !== leader).map((one) => candidacy(state, one)))
  const held = lockOf(state)
  const verdict =
    leaders.length > 1 ? 'divided' : leader ? 'led' : electing(state, candidates) ? 'electing' : 'leaderless'
  // Without the store nobody can be made to lead.
  const [best] = state.store?.read === false ? [] : candidates.filter(({ canBeMade }) => canBeMade)
  const command =
    verdict === 'leaderless' && best
      ? `tabib cluster failover --candidate ${quote(best.name)} --confirm ${quote(scope)} --reason "<why>"`
      : undefined
  const promoted = candidates.find(({ name, wouldLead }) => name === held && wouldLead)
  const says = {
    led: `${leader?.name} leads`,
    electing:
      held === undefined
        ? `nobody leads; ${candidates[0]?.name} will within seconds`
        : promoted
          ? `nobody leads; ${held} holds the lock: it is about to lead, or has just stepped down`
          : `${held} holds the lock and ${isSilent(state, held) ? 'does not answer' : 'does not lead'}; unless it does again, the lock runs out within ${ttlOf(state)} s and ${candidates[0]?.name} will lead`,
    leaderless: best
      ? `nobody leads and nobody will by itself; ${bestText(best, candidates)}`
      : `nobody leads, and nobody can be made to: ${state.store?.read === false ? noStore(state.store.error) : 'no member is fit'}`,
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
      ...judgeAcknowledgement(state),
    ],
    command,
  }
}

/** Who can be made to lead with the least to lose, and who would lose less and cannot. */
function bestText({ name, lostBytes }: Candidate, candidates: readonly Candidate[]): string {
  const better = candidates.find(
    (one) =>
      !one.canBeMade && one.lostBytes !== undefined && lostBytes !== undefined && one.lostBytes < lostBytes,
  )
  if (!better) return `${name} has the most`
  return `${better.name} has the most and ${better.whyNot[0]}: let it lead first, or lose with ${name} ${lostBytes! - better.lostBytes!} bytes more`
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

// A Postgres outlives its Patroni and takes writes still; and one that is a replica leads nobody, whatever is said of it.
const leads = (state: ClusterState, { own, takesWrites }: MemberState): boolean =>
  own.read
    ? (own.value.role === 'standby_leader' || (own.value.role === 'primary' && takesWrites !== false)) &&
      own.value.state === 'running' &&
      stranger(state, own.value) === undefined
    : takesWrites === true

function stranger(state: ClusterState, { scope, systemIdentifier }: PatroniNode): string | undefined {
  if (scope !== state.scope) return `answers for another cluster, "${scope}"`
  if (systemIdentifier === undefined || systemIdentifier === state.systemIdentifier) return undefined
  return `has another database (system identifier ${systemIdentifier}, not ${state.systemIdentifier})`
}

/** Why the store could not be read. Silence may be of the way there: beyond it somebody may lead. */
const noStore = ({ code, message }: TabibError): string =>
  code === 'ETCD_UNREACHABLE' ? 'the store has no majority, or is out of reach from here' : message

const storeIsLost = ({ store }: ClusterState): boolean =>
  store?.read === false && store.error.code === 'ETCD_UNREACHABLE'

/** Whether a synchronous standby is kept; never in a cluster that stands by for another. */
const isSynchronous = ({ settings }: ClusterState): boolean =>
  settings.read && settings.value.synchronous && !settings.value.standbyCluster

/** Who alone may take over by itself in synchronous mode; undefined where anybody may. */
function named(state: ClusterState): string[] | undefined {
  if (!isSynchronous(state)) return undefined
  if (!state.store?.read) {
    // The key is read by way of the members: they do not tell which former leader it names.
    return state.members.filter(({ role }) => role !== 'replica').map(({ name }) => name)
  }
  const { leader, standbys } = state.store.value.sync
  return leader === undefined ? undefined : [leader, ...standbys]
}

/** Who holds the leader key: by the store, else by the list that a member made of it. */
function lockOf({ store, members }: ClusterState): string | undefined {
  if (store?.read) return store.value.leader
  return members.find(({ role }) => role === 'leader' || role === 'standby_leader')?.name
}

const isSilent = ({ members }: ClusterState, name: string): boolean =>
  !members.some((one) => one.name === name && one.own.read)

const isPaused = ({ settings }: ClusterState): boolean => settings.read && settings.value.paused

const ttlText = ({ settings }: ClusterState): string =>
  settings.read ? `${settings.value.ttlS} s` : 'its time to live'

const ttlOf = ({ settings }: ClusterState): number => (settings.read ? settings.value.ttlS : 30)

// No leader, or one that is gone: the others wait for its key to run out and then choose.
function electing(state: ClusterState, candidates: readonly Candidate[]): boolean {
  if (isPaused(state)) return false
  if (storeIsLost(state)) return false
  return candidates.some(({ wouldLead }) => wouldLead)
}

function candidacy(state: ClusterState, member: MemberState): Candidate {
  const own = member.own.read ? member.own.value : undefined
  const reference = furthestLsn(state)
  const isOld = (own?.timeline ?? newestTimeline(state)) < newestTimeline(state)
  // How far it got on an old timeline says nothing of what it lacks of the new one.
  const isFurther = isOld && (own?.lsn ?? 0n) >= (reference ?? 0n)
  const lostBytes =
    own?.lsn === undefined || reference === undefined || isFurther
      ? undefined
      : atLeastZero(reference - own.lsn)
  const impossible = cannotLead(state, member)
  const barred = [...impossible, ...mayNotLead(state, member, lostBytes)]
  const ahead = rivals(state).find((one) => one !== member && lsnOf(one)! > (own?.lsn ?? 0n))
  const whyNot = barred.length === 0 && ahead ? [`${ahead.name} has more`] : barred
  return {
    name: member.name,
    wouldLead: whyNot.length === 0,
    whyNot,
    maySucceed: barred.length === 0,
    canBeMade: impossible.length === 0 && !storeIsLost(state),
    region: typeof member.tags.region === 'string' ? member.tags.region : undefined,
    diskFull: member.diskFull,
    lostBytes,
    lostTransactions: lostTransactions(state, member, lostBytes),
    timeline: own?.timeline,
    keepsAcknowledged: keepsAcknowledged(state, member),
  }
}

/**
 * Whether all that was acknowledged is on it: the sync key names it; or, in strict mode, one of the followers of the
 * leader that the key names alone has it, and it is the furthest of them all.
 */
function keepsAcknowledged(state: ClusterState, member: MemberState): boolean {
  const successors = named(state)
  if (successors === undefined) return false
  if (successors.includes(member.name)) return true
  if (acknowledgement(state) !== 'strict' || !state.store?.read || successors.length > 1) return false
  const followers = state.members.filter(({ name }) => name !== successors[0])
  const [own, newest] = [lsnOf(member), newestTimeline(state)]
  if (own === undefined || timelineOf(member) !== newest) return false
  return followers.every((one) => {
    const lsn = lsnOf(one)
    return lsn !== undefined && (lsn <= own || (timelineOf(one) ?? newest) < newest)
  })
}

/** Why not even an operator can make it the leader: Patroni refuses such a candidate. */
function cannotLead(state: ClusterState, member: MemberState): string[] {
  const { own, tags } = member
  const unfit = unfitness(state, member)
  if (unfit !== undefined || !own.read) return unfit === undefined ? [] : [unfit]
  return [
    ...(staysReplica(tags) || staysReplica(own.value.tags) ? ['is tagged nofailover'] : []),
    ...(own.value.watchdogFailed ? ['has no working watchdog'] : []),
  ]
}

/** What is wrong with it, if it is no working member. */
function unfitness(state: ClusterState, { own }: MemberState): string | undefined {
  if (!own.read) return `does not answer (${own.error.message.replace(/^Patroni gave no answer: /, '')})`
  const { state: postgres, lsn } = own.value
  const strange = stranger(state, own.value)
  if (strange !== undefined) return strange
  if (postgres !== 'running') return `its Postgres does not run (${postgres})`
  return lsn === undefined ? 'does not say how far its WAL reaches' : undefined
}

// As Patroni takes it: whatever is not false or empty; since version 3.2 also a priority of 0.
const staysReplica = ({ nofailover, failover_priority: priority }: Record<string, unknown>): boolean =>
  nofailover === undefined ? priority !== undefined && Number(priority) <= 0 : Boolean(nofailover)

/** Why Patroni would not make it the leader by itself, though it runs. */
function mayNotLead(state: ClusterState, member: MemberState, lostBytes: bigint | undefined): string[] {
  if (!member.own.read) return []
  const own = member.own.value
  const reasons: string[] = []
  if (state.settings.read) {
    const { paused, maximumLag, checkTimeline, standbyCluster } = state.settings.value
    if (paused) reasons.push('the cluster is paused: Patroni changes no leader')
    const last = state.store?.read ? state.store.value.lastLsn : undefined
    // What the leader last wrote to the store counts, not what others have.
    const lag = last === undefined || own.lsn === undefined ? lostBytes : last - own.lsn
    if (lag !== undefined && lag > maximumLag) {
      reasons.push(`lacks ${lag} bytes of WAL; maximum_lag_on_failover is ${maximumLag}`)
    }
    const newest = newestTimeline(state)
    if (checkTimeline && !standbyCluster && own.timeline !== undefined && own.timeline < newest) {
      reasons.push(`is on timeline ${own.timeline}, the cluster on ${newest}`)
    }
    const successors = named(state)
    if (successors && !successors.includes(member.name)) {
      reasons.push(
        state.store?.read
          ? `is not named in the sync key, which names ${successors.join(' and ')}${successors.length === 1 ? ' and no synchronous standby' : ''}`
          : 'is no synchronous standby',
      )
    }
    if (missesStore(state, own))
      reasons.push(`has not reached the store for ${Math.round(own.storeSilentS!)} s`)
  }
  const lost = state.store?.read === false && storeIsLost(state) ? state.store.error : undefined
  if (lost) reasons.push(`${noStore(lost)}: nobody here can take the leader key`)
  const pending = state.store?.read ? state.store.value.pending : undefined
  if (pending?.candidate !== undefined && pending.candidate !== member.name) {
    const awaited = state.members.find(({ name }) => name === pending.candidate)
    // Out of a pause nobody waits for one that cannot.
    if (isPaused(state) || (awaited && cannotLead(state, awaited).length === 0)) {
      reasons.push(`a change to ${pending.candidate} was asked for and waits`)
    }
  }
  return reasons
}

/** A member reads the store once a loop, and gives up after its time for retries. */
const missesStore = ({ settings }: ClusterState, { storeSilentS }: PatroniNode): boolean =>
  settings.read &&
  storeSilentS !== undefined &&
  storeSilentS > settings.value.loopWaitS + settings.value.retryTimeoutS

/** Those that Patroni compares with: they answer, run, and may lead. A former leader in synchronous mode may have more. */
function rivals(state: ClusterState): MemberState[] {
  const successors = named(state)
  const former = successors && state.store?.read ? state.store.value.sync.leader : undefined
  return state.members.filter(
    (one) =>
      lsnOf(one) !== undefined &&
      !leads(state, one) &&
      cannotLead(state, one).length === 0 &&
      one.name !== former &&
      (successors?.includes(one.name) ?? true),
  )
}

const lsnOf = ({ own }: MemberState): bigint | undefined => (own.read ? own.value.lsn : undefined)

/**
 * The furthest position that anybody knows of: a member, or the leader when it last wrote its own to the store. What a
 * former leader has on an older timeline is no part of the cluster's history.
 */
function furthestLsn(state: ClusterState): bigint | undefined {
  const newest = newestTimeline(state)
  const current = state.members.filter((one) => (timelineOf(one) ?? newest) === newest)
  const known = [...current.map(lsnOf), state.store?.read ? state.store.value.lastLsn : undefined]
  return known
    .filter((lsn) => lsn !== undefined)
    .reduce<bigint | undefined>((a, b) => (a !== undefined && a > b ? a : b), undefined)
}

const timelineOf = ({ own }: MemberState): number | undefined => (own.read ? own.value.timeline : undefined)

function newestTimeline({ members }: ClusterState): number {
  return Math.max(0, ...members.map((one) => timelineOf(one) ?? 0))
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
      Number(a.diskFull ?? false) - Number(b.diskFull ?? false) ||
      Number(b.keepsAcknowledged) - Number(a.keepsAcknowledged) ||
      (b.timeline ?? 0) - (a.timeline ?? 0) ||
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
        fix: stopping(scope, leaders.find(({ name }) => name !== lockOf(state))!),
      }),
    ]
  }
  const [leader] = leaders
  if (leader) {
    const lock = state.store?.read ? state.store.value.leader : leader.name
    return leader.own.read
      ? lock === leader.name
        ? []
        : [
            finding({
              id: 'cluster/leader-unlocked',
              severity: 'critical',
              object: `member ${leader.name}`,
              message: `says that it leads, and the store names ${lock ?? 'nobody'}: one of them is about to change, or does not tell the truth`,
              evidence: { lock: lock ?? null },
              fix: `patronictl list ${quote(scope)}    # still so after ${ttlText(state)}: ${stopping(scope, leader)}`,
            }),
          ]
      : [
          finding({
            id: 'cluster/leader-unwatched',
            severity: 'critical',
            object: `member ${leader.name}`,
            message: `its Postgres takes writes and its Patroni does not answer: where that is dead, another will lead within ${ttlOf(state)} s and two take writes`,
            fix: stopping(scope, leader),
          }),
        ]
  }
  const dead = sync?.leader !== undefined && !sync.standbys.some((name) => answers(state, name))
  const nameless = verdict === 'leaderless' && isSynchronous(state) && dead
  const tagged = state.members.find(
    (one) => unfitness(state, one) === undefined && cannotLead(state, one).length > 0,
  )
  return [
    finding({
      id: 'cluster/no-leader',
      severity: 'critical',
      object,
      message:
        verdict === 'electing'
          ? 'nobody leads at this moment'
          : storeIsLost(state)
            ? 'nobody here leads, and without the store Patroni chooses nobody'
            : 'nobody leads, and Patroni will choose nobody: writes stop until somebody is made to',
      evidence: { lock: lockOf(state) ?? null },
      fix:
        command ??
        (tagged
          ? `patronictl reload ${quote(scope)} ${quote(tagged.name)}    # once its configuration lets it lead: ${cannotLead(state, tagged)[0]}`
          : null),
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

// A Patroni that starts again makes a replica of what has no lock.
const stopping = (scope: string, { name, host, own }: MemberState): string =>
  own.read
    ? `patronictl restart ${quote(scope)} ${quote(name)}`
    : `ssh ${quote(host)} systemctl restart patroni`

const answers = ({ members }: ClusterState, name: string): boolean =>
  members.some((one) => one.name === name && one.own.read && one.own.value.state === 'running')

function judgeStore(state: ClusterState, leader: MemberState | undefined): Finding[] {
  const { scope, store, settings } = state
  const object = `cluster ${scope}`
  const found: Finding[] = []
  if (isPaused(state)) {
    found.push(
      finding({
        id: 'cluster/paused',
        severity: leader ? 'warning' : 'critical',
        object,
        message: 'the cluster is paused: if its leader dies, nobody takes over',
        fix: `patronictl resume ${quote(scope)}`,
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
        id: storeIsLost(state) ? 'cluster/store-no-majority' : 'cluster/store-unread',
        severity: storeIsLost(state) ? 'critical' : 'error',
        object,
        message: storeIsLost(state)
          ? `${store.error.message}: ${noStore(store.error)}. Without a majority the leader steps down within ${ttlText(state)} and nobody follows it; beyond a cut in the network another may lead`
          : `${store.error.message}: who may take over is told by the members alone`,
        fix: store.error.suggestions[0] ?? null,
      }),
    )
    return found
  }
  const { sync, pending, systemIdentifier } = store.value
  if (leader && isSynchronous(state) && sync.standbys.length === 0) {
    found.push(
      finding({
        id: 'cluster/sync-missing',
        severity: acknowledgement(state) === 'strict' ? 'critical' : 'error',
        object,
        message: `no synchronous standby: ${acknowledgement(state) === 'strict' ? 'every commit waits until a replica streams, and ' : ''}if ${leader.name} dies now, nobody may take over`,
        evidence: { sync },
        fix: `patronictl list ${quote(scope)}    # does a replica catch up and become Sync Standby?`,
      }),
    )
  }
  if (isPaused(state) && pending?.candidate !== undefined && !answers(state, pending.candidate)) {
    found.push(
      finding({
        id: 'cluster/change-pending',
        severity: 'error',
        object,
        message: `a change of leader to ${pending.candidate} was asked for, and it does not answer: in a pause the others wait for it`,
        evidence: { pending },
        fix: `patronictl flush ${quote(scope)} switchover`,
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
  // From whomever: a replica may pass on what it receives.
  const followed = new Set(
    state.members.flatMap(({ own }) => (own.read ? own.value.replicas.map(({ name }) => name) : [])),
  )
  const found = candidates.flatMap(({ name, lostBytes, wouldLead }): Finding[] => {
    const member = state.members.find((one) => one.name === name)!
    const object = `member ${name}`
    const unfit = unfitness(state, member)
    if (!member.own.read || unfit !== undefined) {
      const postgres = member.own.read ? member.own.value.state : ''
      const changing = postgres !== 'running' && /ing\b/.test(postgres)
      const rewinding = leader && /failed|crashed|stopped/.test(postgres)
      return [
        finding({
          id: member.own.read ? 'cluster/member-unfit' : 'cluster/member-silent',
          severity: changing ? 'warning' : 'error',
          object,
          message: `${unfit}${rewinding ? '; so looks a former leader whose rewind fails, and a disk that is full, of its data or of its WAL' : ''}`,
          fix: rewinding
            ? `ssh ${quote(member.host)} journalctl -u patroni -n 50    # only if it cannot be rewound: patronictl reinit ${quote(scope)} ${quote(name)}`
            : changing
              ? `patronictl list ${quote(scope)}    # does it come to run?`
              : `ssh ${quote(member.host)} systemctl status patroni`,
        }),
      ]
    }
    const own: PatroniNode = member.own.value
    if (!leader?.own.read || leads(state, member)) return []
    if (!followed.has(name)) {
      const old = own.timeline !== undefined && own.timeline < newestTimeline(state)
      return [
        finding({
          id: old ? 'cluster/timeline-behind' : 'cluster/not-streaming',
          severity: 'error',
          object,
          message: old
            ? `is on timeline ${own.timeline} and the leader on ${newestTimeline(state)}: it follows nobody${wouldLead ? `. If ${leader.name} dies now, Patroni lets it lead by how far it got there, and what was written since is lost: check_timeline is off` : ''}`
            : 'streams from nobody',
          evidence: { timeline: own.timeline, lostBytes },
          // Right after a change of leader it needs a moment; to make it anew takes the data that it has.
          fix: `patronictl list ${quote(scope)}    # still so after a minute: patronictl reinit ${quote(scope)} ${quote(name)}`,
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
          fix: `patronictl list ${quote(scope)}    # does the lag shrink?`,
        }),
      ]
    }
    return []
  })
  for (const { name, host, own } of state.members) {
    if (!own.read || storeIsLost(state) || !missesStore(state, own.value)) continue
    found.push(
      finding({
        id: 'cluster/store-unreached',
        severity: 'error',
        object: `member ${name}`,
        message: `has not reached the store for ${Math.round(own.value.storeSilentS!)} s: ${name === leader?.name ? 'it steps down, and another leads' : 'it cannot lead, and leaves the list'} within ${ttlText(state)}`,
        evidence: { storeSilentS: own.value.storeSilentS },
        fix: `ssh ${quote(host)} journalctl -u patroni -n 50`,
      }),
    )
  }
  for (const { name, host, diskFull } of state.members) {
    if (!diskFull) continue
    const [next] = candidates.filter((one) => one.maySucceed && one.diskFull === false)
    const leads = name === leader?.name
    found.push(
      finding({
        id: 'cluster/disk-full',
        severity: leads ? 'critical' : 'error',
        object: `member ${name}`,
        message: `its disk is full: ${leads ? 'it leads, and writes fail or it stops' : 'it stops at the next WAL that it receives, and cannot lead for long'}`,
        fix:
          leads && next
            ? `tabib cluster switchover --candidate ${quote(next.name)} --confirm ${quote(scope)} --reason "<why>"    # or make room: ssh ${quote(host)} df -h`
            : `ssh ${quote(host)} df -h`,
      }),
    )
  }
  for (const { address, host, own } of state.unlisted) {
    const how = !own.read
      ? own.error.message.replace(/^Patroni gave no answer: /, 'does not answer: ')
      : (stranger(state, own.value) ??
        (missesStore(state, own.value)
          ? `answers, and has not reached the store for ${Math.round(own.value.storeSilentS!)} s`
          : 'answers, and is about to be there again'))
    found.push(
      finding({
        id: 'cluster/member-unlisted',
        severity: 'error',
        object: `member ${address}`,
        message: `is configured, and the list of members in the store has it no more; it ${how}`,
        fix: `ssh ${quote(host)} systemctl status patroni`,
      }),
    )
  }
  for (const { name, host, configured } of state.members) {
    if (configured) continue
    found.push(
      finding({
        id: 'cluster/member-elsewhere',
        severity: 'warning',
        object: `member ${name}`,
        message: `Patroni says that its Postgres is at ${host}, which neither database.url nor cluster.patroni names: no password is sent there, and its transactions are not known`,
        evidence: { host },
        fix: `ssh ${quote(host)} hostname    # is it ours? then name it in database.url or cluster.patroni`,
      }),
    )
  }
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
        fix: `patronictl list ${quote(scope)}`,
      }),
    )
  }
  return found
}

/** What a client may believe when its commit returns. */
export function acknowledgement({
  settings,
}: Pick<ClusterState, 'settings'>): 'strict' | 'synchronous' | 'asynchronous' | undefined {
  if (!settings.read || settings.value.standbyCluster) return undefined
  const { synchronous, strict } = settings.value
  return synchronous ? (strict ? 'strict' : 'synchronous') : 'asynchronous'
}

function judgeAcknowledgement(state: ClusterState): Finding[] {
  const how = acknowledgement(state)
  if (how === undefined || how === 'strict') return []
  return [
    finding({
      id: 'cluster/not-strict',
      severity: 'warning',
      object: `cluster ${state.scope}`,
      message:
        how === 'synchronous'
          ? 'synchronous mode is not strict: a leader without a synchronous standby, as each is right after it took over, acknowledges alone, and that is lost with it'
          : 'replication is asynchronous: what a leader has acknowledged and no replica has yet is lost with it',
      evidence: { replication: how },
      fix: `patronictl edit-config ${quote(state.scope)} -s synchronous_mode=true -s synchronous_mode_strict=true`,
    }),
  ]
}

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
