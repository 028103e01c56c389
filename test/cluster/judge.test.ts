import { describe, expect, test } from 'vitest'
import type { PatroniNode, PatroniSettings } from '../../src/adapters/patroni/client.ts'
import { diagnose } from '../../src/domain/cluster/judge.ts'
import { planLead } from '../../src/domain/cluster/lead.ts'
import type { ClusterState, MemberState, StoreState } from '../../src/domain/cluster/observe.ts'
import { TabibError } from '../../src/errors.ts'

const silent = {
  read: false,
  error: new TabibError('PATRONI_UNREACHABLE', 'Patroni gave no answer: x: refused'),
} as const

function member(
  name: string,
  own: Partial<PatroniNode> | 'silent' = {},
  tags: Record<string, unknown> = {},
): MemberState {
  const said: PatroniNode = {
    scope: 'main',
    systemIdentifier: '7',
    state: 'running',
    role: 'replica',
    timeline: 3,
    lsn: 1_000n,
    paused: false,
    storeSilentS: 1,
    startedAt: name,
    tags,
    watchdogFailed: false,
    replicas: [],
    ...(own === 'silent' ? {} : own),
  }
  return {
    name,
    role: said.role === 'primary' ? 'leader' : 'replica',
    state: said.state,
    tags,
    apiUrl: `http://${name}:8008`,
    host: name,
    port: 5432,
    nextXid: undefined,
    takesWrites: undefined,
    diskFull: undefined,
    configured: true,
    own: own === 'silent' ? silent : { read: true, value: said },
  }
}

const primary = (name: string, ...followers: string[]): MemberState =>
  member(name, {
    role: 'primary',
    replicas: followers.map((one) => ({ name: one, state: 'streaming', sync: 'async' })),
  })

function cluster(
  members: MemberState[],
  {
    settings = {},
    store = {},
  }: { settings?: Partial<PatroniSettings>; store?: Partial<StoreState> | 'unread' | 'none' } = {},
): ClusterState {
  return {
    scope: 'main',
    systemIdentifier: '7',
    members,
    unlisted: [],
    settings: {
      read: true,
      value: {
        ttlS: 30,
        loopWaitS: 10,
        retryTimeoutS: 10,
        maximumLag: 1_048_576n,
        synchronous: false,
        strict: false,
        checkTimeline: false,
        paused: false,
        standbyCluster: false,
        ...settings,
      },
    },
    store:
      store === 'none'
        ? undefined
        : store === 'unread'
          ? { read: false, error: new TabibError('ETCD_UNREACHABLE', 'etcd gave no answer: e: refused') }
          : {
              read: true,
              value: {
                leader: undefined,
                sync: { leader: undefined, standbys: [] },
                lastLsn: 1_000n,
                pending: undefined,
                systemIdentifier: '7',
                ...store,
              },
            },
  }
}

const synchronous = { synchronous: true }
// Most of these clusters promise little, and are told so each time.
const ids = (state: ClusterState) =>
  diagnose(state)
    .findings.map(({ id }) => id)
    .filter((id) => id !== 'cluster/not-strict')
const whyNot = (state: ClusterState, name: string) =>
  diagnose(state)
    .candidates.find((one) => one.name === name)
    ?.whyNot.join('; ')

describe('who leads, who would, and why not', () => {
  test('a cluster that is well: one leads, both replicas would, nothing is found', () => {
    const state = cluster([primary('n1', 'n2', 'n3'), member('n2'), member('n3')], {
      store: { leader: 'n1' },
    })
    expect(diagnose(state)).toMatchObject({ verdict: 'led', leader: 'n1', command: undefined })
    expect(ids(state)).toEqual([])
    expect(diagnose(state).candidates.map(({ wouldLead }) => wouldLead)).toEqual([true, true])
  })

  test('the leader is gone: the replica that has the most leads next, the other has less', () => {
    const state = cluster([member('n1', 'silent'), member('n2', { lsn: 900n }), member('n3')], {
      store: { leader: 'n1' },
    })
    expect(diagnose(state)).toMatchObject({ verdict: 'electing', leader: undefined, command: undefined })
    expect(diagnose(state).candidates[0]).toMatchObject({ name: 'n3', wouldLead: true, lostBytes: 0n })
    expect(whyNot(state, 'n2')).toBe('n3 has more')
    expect(diagnose(state).says).toBe(
      'n1 holds the lock and does not answer; unless it does again, the lock runs out within 30 s and n3 will lead',
    )
  })

  test('the sync key names only the dead leader: nobody will, and the command to paste names who has the most', () => {
    const state = cluster([member('n1', { lsn: 700n }), member('n2'), member('n3', 'silent')], {
      settings: synchronous,
      store: { sync: { leader: 'n3', standbys: [] } },
    })
    expect(diagnose(state)).toMatchObject({
      verdict: 'leaderless',
      command: 'tabib cluster failover --candidate n2 --confirm main --reason "<why>"',
    })
    expect(ids(state)).toEqual(['cluster/no-leader', 'cluster/sync-names-nobody', 'cluster/member-silent'])
    expect(whyNot(state, 'n2')).toBe(
      'is not named in the sync key, which names n3 and no synchronous standby',
    )
    expect(diagnose(state).candidates.map(({ name, lostBytes }) => [name, lostBytes])).toEqual([
      ['n2', 0n],
      ['n1', 300n],
      ['n3', undefined],
    ])
  })

  test.each([
    [{ synchronous: false, strict: true }, 'replication is asynchronous: '],
    [{ synchronous: true, strict: false }, 'synchronous mode is not strict: '],
  ])('a cluster that acknowledges what only its leader has is told so', (settings, message) => {
    const state = cluster([primary('n1', 'n2'), member('n2')], {
      settings,
      store: { leader: 'n1', sync: { leader: 'n1', standbys: ['n2'] } },
    })
    expect(diagnose(state).findings).toMatchObject([
      { id: 'cluster/not-strict', severity: 'warning', message: expect.stringContaining(message) },
    ])
    const strict = cluster(state.members, {
      settings: { synchronous: true, strict: true },
      store: { leader: 'n1', sync: { leader: 'n1', standbys: ['n2'] } },
    })
    expect(diagnose(strict).findings).toEqual([])
  })

  test('in strict mode the furthest of the followers has all that a leader without a named standby acknowledged', () => {
    const stuck = (n1: Partial<PatroniNode>) =>
      cluster([member('n1', n1), member('n2'), member('n3', 'silent')], {
        settings: { synchronous: true, strict: true },
        store: { sync: { leader: 'n3', standbys: [] } },
      })
    const keeps = (state: ClusterState) =>
      diagnose(state).candidates.map(({ name, keepsAcknowledged }) => [name, keepsAcknowledged])
    expect(keeps(stuck({ lsn: 700n }))).toEqual([
      ['n2', true],
      ['n1', false],
      ['n3', true],
    ])
    // Further, on a timeline that the cluster has left.
    expect(keeps(stuck({ lsn: 1_200n, timeline: 2 }))[0]).toEqual(['n2', true])
    expect(diagnose(stuck({ lsn: 1_200n, timeline: 2 })).candidates[0]).toMatchObject({ lostBytes: 0n })
  })

  test('the synchronous standby follows, whatever others have', () => {
    const state = cluster(
      [member('n1', 'silent'), member('n2', { lsn: 900n }), member('n3', { lsn: 950n })],
      {
        settings: synchronous,
        store: { sync: { leader: 'n1', standbys: ['n2'] } },
      },
    )
    expect(diagnose(state)).toMatchObject({ verdict: 'electing' })
    expect(diagnose(state).candidates[0]).toMatchObject({
      name: 'n2',
      wouldLead: true,
      keepsAcknowledged: true,
    })
  })

  test.each([
    ['a tag', member('n2', {}, { nofailover: true }), {}, 'is tagged nofailover'],
    [
      'too much lag',
      member('n2', { lsn: 100n }),
      { maximumLag: 500n },
      'lacks 900 bytes of WAL; maximum_lag_on_failover is 500',
    ],
    [
      'an old timeline',
      member('n2', { timeline: 2 }),
      { checkTimeline: true },
      'is on timeline 2, the cluster on 3',
    ],
    ['a pause', member('n2'), { paused: true }, 'the cluster is paused: Patroni changes no leader'],
    [
      'a store out of its reach',
      member('n2', { storeSilentS: 100 }),
      {},
      'has not reached the store for 100 s',
    ],
    [
      'a dead Postgres',
      member('n2', { state: 'start failed' }),
      {},
      'its Postgres does not run (start failed)',
    ],
    ['another cluster', member('n2', { scope: 'other' }), {}, 'answers for another cluster, "other"'],
    [
      'another database',
      member('n2', { systemIdentifier: '8' }),
      {},
      'has another database (system identifier 8, not 7)',
    ],
    ['silence', member('n2', 'silent'), {}, 'does not answer (x: refused)'],
  ])('%s keeps a replica from leading', (_, replica, settings, why) => {
    const state = cluster([primary('n1', 'n2'), replica, member('n3', 'silent')], {
      settings,
      store: { leader: 'n1' },
    })
    expect(whyNot(state, 'n2')).toBe(why)
    expect(ids(state)).toContain('cluster/no-successor')
  })

  test('without a majority of the store nobody leads and nobody can be made to', () => {
    const state = cluster([member('n1'), member('n2')], { store: 'unread' })
    expect(diagnose(state)).toMatchObject({ verdict: 'leaderless', command: undefined })
    expect(ids(state)).toContain('cluster/store-no-majority')
    expect(() => planLead(state, { kind: 'failover', candidate: 'n1' })).toThrow('etcd gave no answer')
  })

  test('who has more than the one to be made to lead, and may not lead, is named first', () => {
    const behind = member('n2', { lsn: 400n })
    const state = cluster([behind, member('n3', {}, { nofailover: true })], { settings: { maximumLag: 10n } })
    expect(diagnose(state)).toMatchObject({
      verdict: 'leaderless',
      says: 'nobody leads and nobody will by itself; n3 has the most and is tagged nofailover: let it lead first, or lose with n2 600 bytes more',
    })
  })

  test('two primaries are divided: the one that the store does not name is to be stopped', () => {
    const state = cluster([primary('n1'), primary('n2')], { store: { leader: 'n2' } })
    expect(diagnose(state)).toMatchObject({ verdict: 'divided' })
    expect(diagnose(state).findings[0]).toMatchObject({
      id: 'cluster/two-leaders',
      fix: 'patronictl restart main n1',
    })
    expect(() => planLead(state, { kind: 'switchover', candidate: 'n2' })).toThrow('both say that they lead')
  })

  test('a change that waits for a dead member holds everybody up in a pause, and nobody out of one', () => {
    const waiting = (paused: boolean) =>
      cluster([member('n1'), member('n2', 'silent')], {
        settings: { paused },
        store: { pending: { candidate: 'n2', leader: undefined } },
      })
    expect(whyNot(waiting(true), 'n1')).toContain('a change to n2 was asked for and waits')
    expect(ids(waiting(true))).toContain('cluster/change-pending')
    expect(diagnose(waiting(false))).toMatchObject({ verdict: 'electing' })
    expect(ids(waiting(false))).not.toContain('cluster/change-pending')
  })

  test('a replica that streams from another replica, or still catches up, follows', () => {
    const [n1, n2] = [primary('n1'), member('n2')]
    const state = cluster([n1, n2, member('n3')], { store: { leader: 'n1' } })
    const replicas = (of: MemberState, name: string, how: string) => {
      if (of.own.read) of.own.value.replicas = [{ name, state: how, sync: 'async' }]
    }
    replicas(n1, 'n2', 'catchup')
    expect(ids(state)).toEqual(['cluster/not-streaming'])
    replicas(n2, 'n3', 'streaming')
    expect(ids(state)).toEqual([])
  })

  test('a Postgres that takes writes without its Patroni is told of, alone and beside another', () => {
    const alone = { ...member('n1', 'silent'), takesWrites: true }
    const lock = { store: { leader: 'n1' } }
    const one = cluster([alone, member('n2')], lock)
    expect(diagnose(one)).toMatchObject({ verdict: 'led', leader: 'n1' })
    expect(diagnose(one).findings[0]).toMatchObject({
      id: 'cluster/leader-unwatched',
      fix: 'ssh n1 systemctl restart patroni',
    })
    for (const kind of ['switchover', 'failover'] as const)
      expect(() => planLead(one, { kind, candidate: 'n2' })).toThrow('its Patroni does not answer')
    const two = cluster([alone, primary('n2')], { store: { leader: 'n2' } })
    expect(diagnose(two)).toMatchObject({ verdict: 'divided' })
    expect(diagnose(two).findings[0]?.fix).toBe('ssh n1 systemctl restart patroni')
  })

  test('a primary of another cluster at a member’s address divides nobody', () => {
    const state = cluster(
      [primary('n1', 'n3'), member('n2', { role: 'primary', scope: 'other' }), member('n3')],
      {
        store: { leader: 'n1' },
      },
    )
    expect(diagnose(state)).toMatchObject({ verdict: 'led', leader: 'n1' })
  })

  test('without the store, the synchronous standby is known by the list of members', () => {
    const standby = { ...member('n2'), role: 'sync_standby' }
    const settings = synchronous
    const led = cluster([member('n1', 'silent'), standby, member('n3')], { settings, store: 'none' })
    expect(diagnose(led).candidates[0]).toMatchObject({
      name: 'n2',
      wouldLead: true,
      keepsAcknowledged: true,
    })
    expect(whyNot(led, 'n3')).toBe('is no synchronous standby')
    const stuck = cluster([member('n1', 'silent'), member('n2')], { settings, store: 'none' })
    expect(diagnose(stuck)).toMatchObject({ verdict: 'leaderless' })
  })

  test('a store that answers and cannot be read has no lack of a majority', () => {
    const state = cluster([primary('n1', 'n2'), member('n2')])
    state.store = {
      read: false,
      error: new TabibError('NOT_AUTHORISED', 'etcd at e refused: user name is empty'),
    }
    expect(ids(state)).toEqual(['cluster/store-unread'])
    expect(whyNot(state, 'n2')).toBe('')
  })

  test('a former leader that has more keeps no synchronous standby from leading', () => {
    const state = cluster([member('n1'), member('n2', { lsn: 900n })], {
      settings: synchronous,
      store: { sync: { leader: 'n1', standbys: ['n2'] } },
    })
    expect(whyNot(state, 'n2')).toBe('')
  })

  test('lag is counted from what the leader last wrote, and the timeline of a standby cluster does not count', () => {
    const settings = { maximumLag: 50n, checkTimeline: true, standbyCluster: true }
    const further = member('n1', { lsn: 5_000n }, { nofailover: true })
    const state = cluster([further, member('n2', { lsn: 960n, timeline: 2 })], { settings })
    expect(whyNot(state, 'n2')).toBe('')
  })

  test.each([
    ['creating replica', 'warning', 'patronictl list main    # does it come to run?'],
    ['start failed', 'error', expect.stringMatching(/^ssh n2 journalctl .* patronictl reinit main n2$/)],
  ])('a member that is %s is not built anew without need', (postgres, severity, fix) => {
    const state = cluster([primary('n1'), member('n2', { state: postgres })], { store: { leader: 'n1' } })
    expect(diagnose(state).findings[0]).toMatchObject({ id: 'cluster/member-unfit', severity, fix })
  })

  test.each([
    ["n 2'; reboot", `'n 2'\\''; reboot'`],
    ['$(reboot)', `'$(reboot)'`],
  ])('a member named %s is quoted in what is to be pasted', (name, quoted) => {
    const state = cluster([member(name)], { settings: { paused: true } })
    expect(diagnose(state).command).toBe(
      `tabib cluster failover --candidate ${quoted} --confirm main --reason "<why>"`,
    )
  })

  test('a leader without a synchronous standby is told of before it dies', () => {
    const state = cluster([primary('n1', 'n2'), member('n2')], {
      settings: synchronous,
      store: { leader: 'n1', sync: { leader: 'n1', standbys: [] } },
    })
    expect(ids(state)).toEqual(['cluster/sync-missing', 'cluster/no-successor'])
  })

  test('a member that the store’s list has lost is told of where the configuration names it', () => {
    const state = cluster([primary('n1', 'n2'), member('n2')], { store: { leader: 'n1' } })
    state.unlisted = [
      { address: 'n3:8008', host: 'n3', own: silent },
      { address: 'n4:8008', host: 'n4', own: member('n4', { storeSilentS: 40 }).own },
    ]
    expect(diagnose(state).findings.map(({ id, object, message }) => [id, object, message])).toMatchObject([
      ['cluster/member-unlisted', 'member n3:8008', expect.stringContaining('does not answer: x: refused')],
      [
        'cluster/member-unlisted',
        'member n4:8008',
        expect.stringContaining('has not reached the store for 40 s'),
      ],
      ['cluster/not-strict', 'cluster main', expect.anything()],
    ])
  })

  test('a leader that does not reach the store steps down, and who holds the lock and would lead is about to', () => {
    const alone = member('n1', { role: 'primary', storeSilentS: 21 })
    expect(ids(cluster([alone, member('n2')], { store: { leader: 'n1' } }))).toContain(
      'cluster/store-unreached',
    )
    const next = cluster([member('n1'), member('n2')], { store: { leader: 'n1' } })
    expect(diagnose(next)).toMatchObject({
      verdict: 'electing',
      says: 'nobody leads; n1 holds the lock: it is about to lead, or has just stepped down',
    })
  })

  test('a replica on an old timeline that streams from nobody is to be built anew', () => {
    const state = cluster([primary('n1', 'n3'), member('n2', { timeline: 2, lsn: 900n }), member('n3')], {
      store: { leader: 'n1' },
    })
    expect(diagnose(state).findings[0]).toMatchObject({
      id: 'cluster/timeline-behind',
      fix: expect.stringMatching(/^patronictl list main .* patronictl reinit main n2$/),
    })
  })

  test('a former leader that got further on its old timeline: Patroni would let it lead, and nobody says that nothing is lost', () => {
    const state = cluster([primary('n1', 'n3'), member('n2', { timeline: 2, lsn: 9_000n }), member('n3')], {
      store: { leader: 'n1' },
    })
    const { candidates, findings } = diagnose(state)
    expect(candidates.find(({ name }) => name === 'n2')).toMatchObject({
      wouldLead: true,
      lostBytes: undefined,
    })
    expect(findings[0]).toMatchObject({
      id: 'cluster/timeline-behind',
      message: expect.stringContaining('what was written since is lost'),
    })
  })

  test('what would be lost in transactions is told by whoever has them', () => {
    const ahead = { ...member('n1'), nextXid: 520n }
    const behind = { ...member('n2', { lsn: 400n }), nextXid: 500n }
    const [first, second] = diagnose(cluster([ahead, behind, member('n3', 'silent')])).candidates
    expect([first, second]).toMatchObject([
      { name: 'n1', lostTransactions: 0n },
      { name: 'n2', lostBytes: 600n, lostTransactions: 20n },
    ])
  })
})

describe('what is planned', () => {
  const well = cluster([primary('n1', 'n2'), member('n2'), member('n3', 'silent')], {
    store: { leader: 'n1' },
  })
  const stuck = cluster(
    [member('n1'), member('n2'), member('n3', 'silent'), member('n4', {}, { nofailover: true })],
    { settings: { paused: true } },
  )
  // Whoever is behind another for a moment: the leader waits for its candidate.
  const busy = cluster([primary('n1', 'n2', 'n3'), member('n2'), member('n3', { lsn: 999n })], {
    store: { leader: 'n1' },
  })

  test.each([
    [well, 'switchover', undefined, 'n2'],
    [well, 'switchover', 'n2', 'n2'],
    [stuck, 'failover', undefined, 'n1'],
    [stuck, 'failover', 'n2', 'n2'],
    [busy, 'switchover', undefined, 'n2'],
    [busy, 'switchover', 'n3', 'n3'],
  ] as const)('a candidate', (state, kind, candidate, chosen) => {
    expect(planLead(state, { kind, candidate }).plan.candidate).toBe(chosen)
  })

  test.each([
    [well, 'switchover', 'n1', 'NOT_NEEDED'],
    [well, 'switchover', 'n3', 'CLUSTER_REFUSED'],
    [well, 'switchover', 'n9', 'NOT_FOUND'],
    [well, 'failover', undefined, 'NOT_NEEDED'],
    [stuck, 'switchover', undefined, 'CLUSTER_REFUSED'],
    [stuck, 'failover', 'n3', 'CLUSTER_REFUSED'],
    [stuck, 'failover', 'n4', 'CLUSTER_REFUSED'],
  ] as const)('or a refusal', (state, kind, candidate, code) => {
    expect(() => planLead(state, { kind, candidate })).toThrow(expect.objectContaining({ code }))
  })
})
