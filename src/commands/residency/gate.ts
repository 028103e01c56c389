import { join } from 'node:path'
import { Flags } from '@oclif/core'
import { planned, severe, TabibCommand, waitFlag } from '../../command.ts'
import { readOperatorKeys } from '../../domain/approval/operator.ts'
import { redactArgv } from '../../domain/audit/operation.ts'
import { readGateState } from '../../domain/residency/gate.ts'
import { breakGlass } from '../../domain/residency/glass.ts'
import { recordBrokenGlass } from '../../domain/residency/journal.ts'
import { type GateState, judgeTarget } from '../../domain/residency/judge.ts'
import { tenantSetHash } from '../../domain/residency/tenants.ts'
import { TabibError } from '../../errors.ts'
import type { Finding } from '../../finding.ts'
import { counted, mark } from '../../render.ts'

const ANSWER_WITHIN_MS = 1_000
/** Of that time, for the program's end. */
const ENDING_MS = 150
/** However slowly it started. */
const LEAST_MS = 500
/** Two people come to the same plan only if both see the same: what is late for one must not be there for the other. */
const PATIENT_MS = 3_000

export default class ResidencyGate extends TabibCommand<typeof ResidencyGate> {
  static override summary = 'Decide whether a cluster may take over: exit 0 yes, 5 no, with every reason.'
  static override description =
    'Every member of the cluster says its region by its Patroni tag, every tenant allows that region, and the newest ' +
    'backup has a signed, fresh manifest of this database, these tenants and regions that they allow. Whatever cannot ' +
    'be read in time for an answer within a second is a reason against. With the primary gone, --database-url may name the standby.\n\n' +
    '--break-glass goes on against the reasons: two people, on record, with an incident for compliance.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> --target herat-dr && patronictl edit-config herat-dr',
    '<%= config.bin %> <%= command.id %> --target herat-dr --answer-within 5s',
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
    'answer-within': waitFlag({
      description:
        'how long to wait for what does not answer before it counts against: a second when not given',
    }),
    'break-glass': Flags.boolean({
      description: 'go on against the reasons, with another operator’s approval',
    }),
    ...planned,
    ...severe,
  }

  async run(): Promise<void> {
    const { target, backup } = this.flags
    const patient = this.flags['break-glass']
    const withinMs = this.flags['answer-within'] ?? ANSWER_WITHIN_MS
    const app = await this.openApp(patient || withinMs > ANSWER_WITHIN_MS ? 'server' : 'hurried')
    // The clock runs since the program began to start.
    const limitMs = patient
      ? Math.max(PATIENT_MS, withinMs)
      : Math.max(LEAST_MS, Math.round(withinMs - ENDING_MS - performance.now()))
    const state = await readGateState(app, { target, backup, limitMs })
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
      // How something could not be read differs from one run to the next; that it could not does not.
      against: reasons.map(({ id, object, evidence }) => ({
        id,
        object,
        evidence: id.endsWith('-unread') ? {} : evidence,
      })),
      tenants: state.database.read ? tenantSetHash(state.database.value.tenants) : null,
    }
    const hash = await this.settlePlan(plan, () => `Going on to ${target} against:\n${reasonLines(reasons)}`)
    if (hash === undefined) return
    this.note(reasonLines(reasons))
    const { reason } = await this.confirmSevere(target, `Going on to ${target} against ${count(reasons)}`)
    const record = await this.#breakGlass({ target, reasons, reason, hash, database: state.database })
    this.succeed({
      result: { target, decision: 'broken-glass', ...record, against: reasons },
      text: () =>
        `${mark('warning')} ${target} may take over by break-glass, against ${count(reasons)}${
          record.journal === undefined
            ? ''
            : `\n  on record in ${record.journal}; next, once the database is back: tabib residency journal`
        }`,
      warnings: reasons.map(({ object, message }) => `${object}: ${message}`),
    })
  }

  /** On record in the database; in the journal where none takes writes. */
  async #breakGlass(broken: Broken): Promise<{ incident?: string; journal?: string }> {
    const { residency } = await this.loadConfig()
    const hasJournal = residency?.journal !== undefined && residency.operators !== undefined
    if (hasJournal && !broken.database.read) return { journal: await this.#journal(broken) }
    const { target, reasons, reason, hash, database } = broken
    const { actor } = this
    try {
      const { id } = await this.mutateAlone(
        `cluster:${target}`,
        {
          targets: [`cluster:${target}`],
          planHash: hash,
          reason,
          failureMode: 'billing/FM-22',
          ...(database.read ? { tenantCount: database.value.tenants.length } : {}),
        },
        async () => breakGlass(await this.openApp(), { target, reasons, actor, reason }),
        { twoPeople: true },
      )
      return { incident: id }
    } catch (error) {
      // A standby is read from and takes no writes.
      if (!(error instanceof TabibError && error.code === 'POSTGRES_UNREACHABLE')) throw error
      if (hasJournal) return { journal: await this.#journal(broken) }
      error.suggestions.unshift('set residency.operators and residency.journal: docs/residency.md')
      throw error
    }
  }

  async #journal({ target, reasons, reason, hash, database }: Broken): Promise<string> {
    const { config, operatorKeyStore: keyStore } = await this.openApp()
    const { operators, journal } = config.residency!
    const approval = await this.approvalOf(hash)
    const record = await recordBrokenGlass(
      { operators: await readOperatorKeys(operators!), keyStore },
      journal!,
      {
        actor: this.actor,
        runId: this.runId,
        context: config.context,
        target,
        planHash: hash,
        reason,
        approval: approval.trim(),
        against: reasons.map(({ object, message }) => ({ object, message })),
        ...(database.read ? { tenantCount: database.value.tenants.length } : {}),
        argsRedacted: redactArgv(this.argv),
        version: this.config.version,
      },
    )
    return join(journal!, record.name)
  }
}

interface Broken {
  target: string
  reasons: Finding[]
  reason: string
  hash: string
  database: GateState['database']
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
