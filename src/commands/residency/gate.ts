import { Flags } from '@oclif/core'
import { planned, severe, TabibCommand } from '../../command.ts'
import { readGateState } from '../../domain/residency/gate.ts'
import { breakGlass } from '../../domain/residency/glass.ts'
import { type GateState, judgeTarget } from '../../domain/residency/judge.ts'
import { tenantSetHash } from '../../domain/residency/tenants.ts'
import { TabibError } from '../../errors.ts'
import type { Finding } from '../../finding.ts'
import { counted, mark } from '../../render.ts'

// Of the second that a decision may take, the rest is the start of the program.
const LIMIT_MS = 500

export default class ResidencyGate extends TabibCommand<typeof ResidencyGate> {
  static override summary = 'Decide whether a cluster may take over: exit 0 yes, 5 no, with every reason.'
  static override description =
    'Every member of the cluster says its region by its Patroni tag, every tenant allows that region, and the newest ' +
    'backup has a signed, fresh manifest of this database, these tenants and regions that they allow. Whatever cannot ' +
    'be read within half a second is a reason against. With the primary gone, --database-url may name the standby.\n\n' +
    '--break-glass goes on against the reasons: two people, on record, with an incident for compliance.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> --target herat-dr && patronictl edit-config herat-dr',
    '<%= config.bin %> <%= command.id %> --target herat-dr --break-glass --dry-run',
    '<%= config.bin %> <%= command.id %> --target herat-dr --break-glass --confirm herat-dr --reason "quake in Kabul" --approval approval.jws',
  ]
  static override flags = {
    target: Flags.string({
      required: true,
      helpValue: '<cluster>',
      description: 'the cluster that is to take over, from residency.clusters',
    }),
    backup: Flags.string({
      helpValue: '<label>',
      description: 'the backup to be judged: the newest when not given',
    }),
    'break-glass': Flags.boolean({
      description: 'go on against the reasons, with another operator’s approval',
    }),
    ...planned,
    ...severe,
  }

  async run(): Promise<void> {
    const { target, backup } = this.flags
    const app = await this.openApp('hurried')
    const state = await readGateState(app, { target, backup, limitMs: LIMIT_MS })
    const reasons = judgeTarget(state)
    if (reasons.length === 0) {
      this.succeed({
        result: { target, decision: 'allowed', ...factsOf(state) },
        text: () => allowedText(state),
      })
      return
    }
    if (!this.flags['break-glass']) throw refused(target, reasons)
    const plan = {
      breakGlass: target,
      against: reasons.map(({ id, object, evidence }) => ({ id, object, evidence })),
      tenants: state.database.read ? tenantSetHash(state.database.value.tenants) : null,
    }
    const hash = await this.settlePlan(plan, () => `Going on to ${target} against:\n${reasonLines(reasons)}`)
    if (hash === undefined) return
    this.note(reasonLines(reasons))
    const { reason } = await this.confirmSevere(target, `Going on to ${target} against ${count(reasons)}`)
    const { actor } = this
    const incident = await this.mutateAlone(
      `cluster:${target}`,
      {
        targets: [`cluster:${target}`],
        planHash: hash,
        reason,
        failureMode: 'billing/FM-22',
        ...(state.database.read ? { tenantCount: state.database.value.tenants.length } : {}),
      },
      async () => breakGlass(await this.openApp(), { target, reasons, actor, reason }),
      { twoPeople: true },
    )
    this.succeed({
      result: { target, decision: 'broken-glass', incident: incident.id, against: reasons },
      text: () => `${mark('warning')} ${target} may take over by break-glass, against ${count(reasons)}`,
      warnings: reasons.map(({ object, message }) => `${object}: ${message}`),
    })
  }
}

function refused(target: string, reasons: readonly Finding[]): TabibError {
  return new TabibError(
    'RESIDENCY_REFUSED',
    `${target} may not take over, for ${count(reasons)}:\n${reasonLines(reasons)}`,
    {
      suggestions: [...new Set(reasons.map(({ fix }) => fix).filter((fix) => fix !== null))],
      ref: 'runbooks/billing/fm-22-residency-drift-in-recovery.md',
      context: { target, decision: 'refused', findings: reasons },
    },
  )
}

function factsOf({ database, cluster, manifest }: GateState): Record<string, unknown> {
  return {
    tenants: database.read ? database.value.tenants.length : null,
    members: cluster.read
      ? cluster.value.members.map(({ name, tags }) => ({ name, region: tags.region }))
      : null,
    backup: manifest.read ? manifest.value : null,
  }
}

function allowedText({ target, database, cluster, manifest }: GateState): string {
  const regions = cluster.read ? [...new Set(cluster.value.members.map(({ tags }) => tags.region))] : []
  const tenants = database.read ? database.value.tenants.length : 0
  const backup = manifest.read ? `backup ${manifest.value.label} in ${manifest.value.region}` : ''
  return `${mark('ok')} ${target} may take over: in ${regions.join(', ')}, allowed by ${tenants === 1 ? 'its one tenant' : `all of ${tenants} tenants`}; ${backup}`
}

const reasonLines = (reasons: readonly Finding[]): string =>
  reasons.map(({ object, message }) => `  ${object}: ${message}`).join('\n')

const count = (reasons: readonly Finding[]): string => counted(reasons.length, 'reason')
