import { planned, severe, TabibCommand } from '../../command.ts'
import { listErasures } from '../../domain/erasure/list.ts'
import { planReplay, type ReplayPlan, replayErasures } from '../../domain/erasure/replay.ts'
import { TabibError } from '../../errors.ts'
import { uuidArg } from '../../flags.ts'
import { mark, table } from '../../render.ts'

export default class ErasureReplay extends TabibCommand<typeof ErasureReplay> {
  static override summary = 'Send what is missing of erasures now, and look for whoever came back.'
  static override description =
    `Tells the participants that have not acknowledged once more, instead of when their turn would come. What is acknowledged
is not done again, unless it is there again: then it is one more round. Whoever came back is erased again by the order that was
signed for them. Severe, as every erasure: what is erased cannot be brought back. Later stages follow by the erasure-replay worker,
as the earlier ones acknowledge.`
  static override examples = [
    '<%= config.bin %> <%= command.id %> --dry-run',
    '<%= config.bin %> <%= command.id %> --confirm erasures --reason "communication/C15"',
    '<%= config.bin %> <%= command.id %> <request> --confirm <request> --reason "communication/C15"',
  ]
  static override args = { request: uuidArg({ description: 'this one alone' }) }
  static override flags = { ...planned, ...severe }

  async run(): Promise<void> {
    const app = await this.openApp()
    const { request } = this.args
    if (request !== undefined && (await listErasures(app, { state: 'all', id: request })).length === 0) {
      throw new TabibError('NOT_FOUND', `there is no erasure request "${request}"`, {
        suggestions: ['tabib erasure list'],
      })
    }
    const requestIds = request === undefined ? undefined : [request]
    const plan = await planReplay(app, { requestIds })
    const hash = await this.settlePlan(plan, () => planText(plan))
    if (hash === undefined) return
    this.note(planText(plan))
    const named = request ?? 'erasures'
    const { reason } = await this.confirmSevere(named, 'Erasing what is missing')
    const target = `erasure:${named}`
    const result = await this.mutateAlone(
      target,
      { targets: [target], planHash: hash, reason, failureMode: 'communication/C15' },
      () => replayErasures(app, { requestIds, signal: this.signal }),
    )
    this.succeed({
      result,
      text: () =>
        `${mark('ok')} steps sent: ${result.sent}; read again: ${result.reread}, of these to be done again: ${result.reopened}; subjects that had come back: ${result.returned}`,
      status: result.unsent > 0 ? 'partial' : 'ok',
      warnings: result.unsent > 0 ? [`NATS did not take ${result.unsent} steps; their turn comes again`] : [],
    })
  }
}

function planText({ missing }: ReplayPlan): string {
  if (missing.length === 0) return 'no acknowledgement is missing; what came back is looked for'
  const rows = missing.map(({ requestId, participants }) => ({
    request: requestId,
    missing: participants.join(', '),
  }))
  return table(rows, ['request', 'missing'])
}
