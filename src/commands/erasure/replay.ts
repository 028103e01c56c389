import { Args } from '@oclif/core'
import { moderate, planned, TabibCommand } from '../../command.ts'
import { listErasures } from '../../domain/erasure/list.ts'
import { planReplay, type ReplayPlan, replayErasures } from '../../domain/erasure/replay.ts'
import { TabibError } from '../../errors.ts'
import { mark, table } from '../../render.ts'

export default class ErasureReplay extends TabibCommand<typeof ErasureReplay> {
  static override summary = 'Send what is missing of erasures now, and look for whoever came back.'
  static override description =
    `Tells the participants that have not acknowledged once more, instead of when their turn would come. What is acknowledged
is not done again, unless it is there again: then it is one more round. The order was signed when the request was opened, so
this asks for no more than --yes. Later stages follow by the erasure-replay worker, as the earlier ones acknowledge.`
  static override examples = [
    '<%= config.bin %> <%= command.id %> --dry-run',
    '<%= config.bin %> <%= command.id %> --yes',
    '<%= config.bin %> <%= command.id %> <request> --yes',
  ]
  static override args = { request: Args.string({ description: 'this one alone' }) }
  static override flags = { ...planned, ...moderate }

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
    await this.confirmModerate('Sending what is missing')
    const targets = request === undefined ? ['erasure'] : [`erasure:${request}`]
    const result = await this.mutate({ targets, planHash: hash, failureMode: 'communication/C15' }, () =>
      replayErasures(app, { requestIds, signal: this.signal }),
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
