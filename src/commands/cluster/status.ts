import { TabibCommand } from '../../command.ts'
import { acknowledgement, diagnose } from '../../domain/cluster/judge.ts'
import { type ClusterState, observeCluster } from '../../domain/cluster/observe.ts'
import { fails } from '../../findings-report.ts'
import { mark, table } from '../../render.ts'

export default class ClusterStatus extends TabibCommand<typeof ClusterStatus> {
  static override summary =
    'Members of the Patroni cluster: role, state, timeline, lag; exit 1 when one needs a hand.'
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --json',
  ]

  async run(): Promise<void> {
    const state = await observeCluster(await this.openApp())
    const { scope, leader, verdict, says, findings } = diagnose(state)
    const failing = findings.filter(fails)
    this.succeed({
      result: {
        scope,
        leader: leader ?? null,
        verdict,
        paused: paused(state),
        replication: acknowledgement(state) ?? null,
        members: state.members.map(memberOf),
        findings,
      },
      status: failing.length > 0 ? 'findings' : 'ok',
      text: () =>
        [
          table(state.members.map(memberOf), [
            'name',
            'role',
            'state',
            'timeline',
            'lsn',
            'region',
            'postgres',
          ]),
          `${mark(failing.length > 0 ? 'failed' : 'ok')} ${scope}: ${says}${paused(state) ? ', paused' : ''}${promise(state)}`,
          ...(failing.length > 0 ? [`    tabib cluster diagnose    # ${failing.length} findings`] : []),
        ].join('\n'),
    })
  }
}

const paused = ({ settings }: ClusterState): boolean => settings.read && settings.value.paused

const promise = (state: ClusterState): string => {
  const how = acknowledgement(state)
  if (how === undefined) return ''
  return `, ${how === 'strict' ? 'strictly synchronous' : how === 'synchronous' ? 'synchronous and not strict' : how}`
}

function memberOf({ name, role, own, tags, host, port }: ClusterState['members'][number]) {
  return {
    name,
    role: own.read && own.value.role !== 'replica' ? own.value.role : role,
    state: own.read ? own.value.state : 'no answer',
    timeline: own.read ? own.value.timeline : undefined,
    lsn: own.read && own.value.lsn !== undefined ? walPosition(own.value.lsn) : undefined,
    region: typeof tags.region === 'string' ? tags.region : undefined,
    postgres: `${host}:${port}`,
  }
}

/** As Postgres writes a place in its WAL: `0/4000298`. */
const walPosition = (lsn: bigint): string =>
  `${(lsn >> 32n).toString(16)}/${(lsn & 0xffff_ffffn).toString(16)}`.toUpperCase()
