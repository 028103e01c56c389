import type { LeadPlan, Led } from '../../domain/cluster/lead.ts'
import ClusterSwitchover from './switchover.ts'

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

  /** The trail is in the database that nobody leads. */
  protected override recorded(...given: Parameters<ClusterSwitchover['recordedAfterwards']>): Promise<Led> {
    return this.recordedAfterwards(...given)
  }
}
