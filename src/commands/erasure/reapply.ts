import { planned, severe, TabibCommand } from '../../command.ts'
import { applyReapply, planReapply, type Reapplied, type ReapplyPlan } from '../../domain/erasure/reapply.ts'
import { assertMigrated } from '../../domain/schema/migrate.ts'
import { openProgress } from '../../progress.ts'
import { counted, details, mark } from '../../render.ts'
import { thisInstance } from '../../worker.ts'

export default class ErasureReapply extends TabibCommand<typeof ErasureReapply> {
  static override summary =
    'A database was restored: erase again whom it has brought back, before it takes traffic.'
  static override description =
    `The list of erasures and legal holds lies outside of the database, in the stream tabib_erasures. What the database lacks
of it is put back; whoever of the list is in the database is erased again, participant by participant. /readyz of every
process on that database answers 503 until this is done. It may be run again; the second run changes nothing.`
  static override examples = [
    '<%= config.bin %> <%= command.id %> --database-url postgres://tabib@standby/platform --dry-run',
    '<%= config.bin %> <%= command.id %> --database-url postgres://tabib@standby/platform --confirm platform --reason "restored from the backup of 03:00"',
  ]
  static override flags = { ...planned, ...severe }

  async run(): Promise<void> {
    const app = await this.openApp()
    await assertMigrated(app)
    const plan = await planReapply(app)
    const planHash = await this.settlePlan(plan, () => planText(plan))
    if (planHash === undefined) return
    if (isDone(plan)) {
      this.succeed({
        result: { plan },
        text: () => `${mark('ok')} ${plan.database} has all that the list says`,
      })
      return
    }
    this.note(planText(plan))
    const { reason } = await this.confirmSevere(plan.database, `Erasing again in ${plan.database}`)
    this.resumeWith = `tabib erasure reapply --confirm ${plan.database} --reason "<why>"`
    const progress = openProgress({ quiet: this.flags.quiet })
    const result = await this.mutateAlone(
      'erasure-list',
      { targets: [`database:${plan.database}`], planHash, reason, failureMode: 'communication/C15' },
      () =>
        applyReapply(app, {
          instance: thisInstance(this.config.version).id,
          signal: this.signal,
          onProgress: progress.at,
        }),
    )
    progress.end()
    const whole = result.left === 0 && Object.keys(result.failed).length === 0
    this.succeed({
      result: { plan, ...result },
      status: whole ? 'ok' : 'partial',
      text: () => resultText(plan, result),
      warnings: whole ? [] : [`not done; once the store answers: ${this.resumeWith}`],
    })
  }
}

const isDone = ({ list, missing, rows, open, interrupted }: ReapplyPlan): boolean =>
  !interrupted &&
  list.applied >= list.head &&
  open === 0 &&
  ![missing, rows].some((counts) => Object.values(counts).some((n) => n > 0))

const planText = ({ database, list, missing, returned, held, rows, open }: ReapplyPlan): string =>
  details({
    database,
    'knows the list': `up to ${list.applied} of ${list.head}`,
    'put back': `${counted(missing.request, 'request')}, ${counted(missing.hold, 'hold')}, ${counted(missing.release, 'release')}`,
    'erase again': counted(returned, 'subject'),
    ...(held > 0 ? { 'kept by a legal hold': counted(held, 'subject') } : {}),
    rows:
      Object.entries(rows)
        .map(([participant, n]) => `${participant} ${n}`)
        .join(', ') || 'none',
    'steps left open': open,
  })

function resultText({ database }: ReapplyPlan, result: Reapplied): string {
  const { erased, rows, held, failed, left, missing } = result
  const errors = Object.entries(failed).map(([code, n]) => `${code} ${n}`)
  return [
    `${mark('ok')} ${missing.request + missing.hold + missing.release} entries put back, ${counted(erased, 'subject')} erased again, ${counted(rows, 'row')}`,
    ...(held > 0 ? [`${mark('warning')} ${counted(held, 'subject')} kept by a legal hold`] : []),
    ...(errors.length > 0 ? [`${mark('failed')} steps that failed: ${errors.join(', ')}`] : []),
    left === 0 && errors.length === 0
      ? `${mark('ok')} ${database} may take traffic`
      : `${mark('failed')} ${database} may not take traffic: ${counted(left, 'subject')} of the list ${left === 1 ? 'is' : 'are'} in it`,
  ].join('\n')
}
