import { Flags } from '@oclif/core'
import { planned, severe, TabibCommand } from '../../command.ts'
import { assertUnused, judgeApproval, useApproval } from '../../domain/approval/accept.ts'
import { proveActor } from '../../domain/approval/prove.ts'
import { type Operation, type OperationDetails, redactArgv } from '../../domain/audit/operation.ts'
import { forgetBegun, takeBegun } from '../../domain/cluster/begun.ts'
import { type Candidate, diagnose, lossText } from '../../domain/cluster/judge.ts'
import {
  assertRegion,
  type LeadPlan,
  type Led,
  lead,
  memberDatabase,
  planLead,
} from '../../domain/cluster/lead.ts'
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
    state: ClusterState,
  ): Promise<Led> {
    const { leader } = diagnose(state)
    const isFull = state.members.some(({ name, diskFull }) => name === leader && diskFull === true)
    if (isFull) return this.recordedAfterwards(work, details, state)
    return this.mutateAlone(details.targets[0]!, details, () => work())
  }

  /**
   * For a trail whose database takes no writes until it is led anew: an approval is judged by what the candidate’s own Postgres knows of
   * operators, and all is written down once it leads. Until then the store has it: should this process die, the next run
   * takes it into the trail.
   */
  protected async recordedAfterwards(
    work: (operation?: Operation) => Promise<Led>,
    details: Recorded,
    state: ClusterState,
  ): Promise<Led> {
    const app = await this.openApp()
    const { planHash, candidate } = details
    const demanded = app.config.approvalsRequired || this.flags.approval !== undefined
    const consent = demanded ? await this.#consent(planHash, candidate, state) : undefined
    const operation = { ...details, approver: consent?.claims.iss, actorProof: consent?.actorProof }
    const led = await work({
      ...{ ...operation, runId: this.runId, actor: this.actor, context: app.config.context },
      ...{ command: this.commandName, argsRedacted: redactArgv(this.argv), version: this.config.version },
    })
    if (consent) await useApproval(app, consent.claims, { runId: this.runId, actor: this.actor })
    await this.mutate(operation, async () => led)
    const cluster = requireCluster(app.config)
    if (cluster.etcd.length > 0) {
      const { namespace } = cluster
      await forgetBegun(await openStore(app, cluster), { namespace, scope: led.scope }, this.runId)
    }
    return led
  }

  async #consent(planHash: string, candidate: string, state: ClusterState) {
    const { config, operatorKeyStore: keyStore } = await this.openApp()
    const { actor, runId } = this
    const { context } = config
    const approval = await this.approvalOf(planHash)
    await using db = memberDatabase(config, state, candidate)
    const claims = await judgeApproval({ db }, { approval, planHash, context, actor })
    await assertUnused({ db }, claims)
    return { claims, actorProof: await proveActor({ db, keyStore }, { actor, planHash, context, runId }) }
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
