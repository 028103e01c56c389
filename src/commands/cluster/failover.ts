import { assertUnused, judgeApproval, useApproval } from '../../domain/approval/accept.ts'
import { proveActor } from '../../domain/approval/prove.ts'
import { type Operation, redactArgv } from '../../domain/audit/operation.ts'
import { forgetBegun } from '../../domain/cluster/begun.ts'
import { type LeadPlan, type Led, memberDatabase } from '../../domain/cluster/lead.ts'
import { type ClusterState, openStore, requireCluster } from '../../domain/cluster/observe.ts'
import ClusterSwitchover, { type Recorded } from './switchover.ts'

export default class ClusterFailover extends ClusterSwitchover {
  static override summary = 'Make a member lead when nobody does: what it lacks is lost.'
  static override description =
    'For a cluster that will not help itself, as `cluster diagnose` says. The candidate is the member with the least to ' +
    'lose, or the one named. While a leader that does not answer still holds its lock, the command waits until that runs ' +
    'out; one that renews it lives, and nothing is done. Every tenant must allow the candidate’s region.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> --dry-run',
    '<%= config.bin %> <%= command.id %> --candidate n2 --confirm main --reason "n1 burnt, n2 has the most"',
  ]

  protected override kind: LeadPlan['kind'] = 'failover'

  /**
   * The trail is in the database that nobody leads: an approval is judged by what the candidate’s own Postgres knows of
   * operators, and all is written down once it leads. Until then the store has it: should this process die, the next run
   * takes it into the trail.
   */
  protected override async recorded(
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
}
