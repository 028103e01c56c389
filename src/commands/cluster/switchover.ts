import { Flags } from '@oclif/core'
import { planned, severe, TabibCommand } from '../../command.ts'
import type { Operation, OperationDetails } from '../../domain/audit/operation.ts'
import { takeBegun } from '../../domain/cluster/begun.ts'
import { type Candidate, lossText } from '../../domain/cluster/judge.ts'
import { assertRegion, type LeadPlan, type Led, lead, planLead } from '../../domain/cluster/lead.ts'
import { type ClusterState, observeCluster, openStore, requireCluster } from '../../domain/cluster/observe.ts'
import { details, mark } from '../../render.ts'

export default class ClusterSwitchover extends TabibCommand<typeof ClusterSwitchover> {
  static override summary = 'Let another member lead, in order: nothing is lost, writes wait a second or two.'
  static override description =
    'The candidate is the member that Patroni would let lead and that has the most, or the one named. Every tenant must ' +
    'allow its region. Afterwards: one writable leader, the old one follows, replication is back, tabib’s processes work with ' +
    'it, each outbox is whole, or exit 1.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> --dry-run',
    '<%= config.bin %> <%= command.id %> --candidate n2 --confirm main --reason "kernel update on n1"',
  ]
  static override flags = {
    candidate: Flags.string({ helpValue: '<member>', description: 'who is to lead' }),
    ...planned,
    ...severe,
  }

  protected kind: LeadPlan['kind'] = 'switchover'

  async run(): Promise<void> {
    const app = await this.openApp()
    const state = await observeCluster(app)
    const { plan, candidate } = planLead(state, { kind: this.kind, candidate: this.flags.candidate })
    await assertRegion(app, state, plan.candidate)
    const hash = await this.settlePlan(plan, () => planText(plan, candidate))
    if (hash === undefined) return
    this.note(planText(plan, candidate))
    const { reason } = await this.confirmSevere(plan.scope, `${plan.candidate} leads ${plan.scope}`)
    const led = await this.recorded(
      (operation) =>
        lead(app, plan, { by: `${this.actor}, run ${this.runId}`, signal: this.signal, operation }),
      {
        candidate: plan.candidate,
        targets: [`cluster:${plan.scope}`],
        planHash: hash,
        reason,
        failureMode: 'billing/FM-01',
      },
      state,
    )
    await this.takeBegun(plan.scope)
    this.succeed({
      result: { plan, ...led },
      status: led.amiss.length > 0 ? 'findings' : 'ok',
      text: () => ledText(led),
    })
  }

  /** Does it with the trail around it, and nobody else at it. */
  protected recorded(
    work: (operation?: Operation) => Promise<Led>,
    details: Recorded,
    _state: ClusterState,
  ): Promise<Led> {
    return this.mutateAlone(details.targets[0]!, details, () => work())
  }

  /** Takes into the trail what another run began and did not live to record. */
  protected async takeBegun(scope: string): Promise<void> {
    const app = await this.openApp()
    const cluster = requireCluster(app.config)
    if (cluster.etcd.length === 0 || app.config.databaseUrl === undefined) return
    const { namespace } = cluster
    const taken = await takeBegun(app, await openStore(app, cluster), { namespace, scope })
    for (const run of taken) {
      this.note(
        `${mark('warning', process.stderr)} run ${run} began a failover and ended before the trail had it: tabib audit list --run ${run}`,
      )
    }
  }
}

/** What the trail says of a change of leader. */
export type Recorded = OperationDetails & { planHash: string; candidate: string }

const planText = ({ kind, scope, leader, candidate, timeline }: LeadPlan, to: Candidate): string =>
  details({
    [kind]: scope,
    from: leader ?? 'nobody',
    to: `${candidate}${to.region === undefined ? '' : `, ${to.region}`}`,
    timeline,
    'would be lost': kind === 'switchover' ? 'nothing' : lossText(to),
    'Patroni says': kind === 'failover' && to.whyNot.length > 0 ? to.whyNot.join('; ') : undefined,
  })

const ledText = ({ scope, leader, writableAfterMs, replicas, clients, outboxes, amiss }: Led): string =>
  [
    `${mark(amiss.length > 0 ? 'warning' : 'ok')} ${scope}: ${leader} leads and takes writes after ${(writableAfterMs / 1_000).toFixed(1)} s; ${replicas.join(', ') || 'nobody'} stream${replicas.length === 1 ? 's' : ''} from it`,
    ...(clients
      ? [`  ${clients.seen - clients.missing.length} of ${clients.seen} processes work with it again`]
      : []),
    ...(outboxes ?? []).map(
      ({ service, pending, relayed, compared, ghosts }) =>
        `  ${service} outbox: ${pending} pending, ${compared ?? 'no'} published events compared, ${ghosts.length} without their row${relayed ? '' : '; no relay is at work'}`,
    ),
    ...amiss.map((what) => `${mark('failed')} ${what}`),
    ...(amiss.length > 0 ? ['    tabib cluster diagnose'] : []),
  ].join('\n')
