import { Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { listHolds } from '../../domain/erasure/hold.ts'
import { listErasures, listSteps, REQUEST_STATES } from '../../domain/erasure/list.ts'
import { findTenant } from '../../domain/tenants/find.ts'
import { TabibError } from '../../errors.ts'
import { uuidArg } from '../../flags.ts'
import { details, mark, table } from '../../render.ts'

export default class ErasureList extends TabibCommand<typeof ErasureList> {
  static override summary =
    'Erasures and what is missing of each; one of them with what every participant did; legal holds.'
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --state all --tenant herat-markaz --json',
    '<%= config.bin %> <%= command.id %> <request>',
    '<%= config.bin %> <%= command.id %> --holds',
  ]
  static override args = { request: uuidArg({ description: 'this one, step by step' }) }
  static override flags = {
    state: Flags.option({ options: REQUEST_STATES, default: 'unfinished' as const })({
      description: 'only requests in this state; unfinished is open and watching',
    }),
    tenant: Flags.string({ helpValue: '<tenant>', description: "this one's alone: slug or id" }),
    holds: Flags.boolean({ description: 'legal holds in force, instead of requests' }),
  }

  async run(): Promise<void> {
    const app = await this.openApp()
    if (this.flags.holds) {
      const holds = await listHolds(app)
      const columns = ['id', 'subject', 'participants', 'authority', 'placedBy', 'placedAt'] as const
      const rows = holds.map(({ participants, ...hold }) => ({
        ...hold,
        participants: participants?.join(', ') ?? 'all',
      }))
      return this.succeed({
        result: holds,
        text: () => (holds.length === 0 ? `${mark('ok')} no legal holds` : table(rows, columns)),
      })
    }
    const { request } = this.args
    if (request !== undefined) return this.#show(request)
    const { tenant, state } = this.flags
    const tenantId = tenant === undefined ? undefined : (await findTenant(app, tenant)).id
    const requests = await listErasures(app, { state, tenantId })
    this.succeed({
      result: requests,
      text: () => {
        if (requests.length === 0) return `${mark('ok')} no erasures`
        const rows = requests.map(({ missing, held, deadlineUsed, ...one }) => ({
          ...one,
          used: `${Math.round(deadlineUsed * 100)} %`,
          missing: missing.join(', ') || '-',
          held: held.join(', ') || '-',
        }))
        return table(rows, [
          'id',
          'tenant',
          'subject',
          'state',
          'requestedAt',
          'deadlineAt',
          'used',
          'missing',
          'held',
        ])
      },
    })
  }

  async #show(id: string): Promise<void> {
    const app = await this.openApp()
    const [request] = await listErasures(app, { state: 'all', id })
    if (request === undefined) {
      throw new TabibError('NOT_FOUND', `there is no erasure request "${id}"`, {
        suggestions: ['tabib erasure list --state all'],
      })
    }
    const steps = await listSteps(app, request.id)
    const { missing, held, ...rest } = request
    this.succeed({
      result: { ...request, steps },
      text: () =>
        `${details({ ...rest, missing: missing.join(', ') || '-', held: held.join(', ') || '-' })}\n\n${table(
          steps,
          [
            'stage',
            'participant',
            'state',
            'round',
            'attempts',
            'lastError',
            'rowsAffected',
            'position',
            'ackedAt',
            'rereadAt',
            'secondRereadAt',
          ],
        )}`,
    })
  }
}
