import { Flags } from '@oclif/core'
import { durationFlag, TabibCommand } from '../../command.ts'
import { listRefunds, REFUND_STATES } from '../../domain/payments/refund-queue.ts'
import { findTenant } from '../../domain/tenants/find.ts'
import { mark, table } from '../../render.ts'

export default class RefundsList extends TabibCommand<typeof RefundsList> {
  static override summary =
    'The review queue of refunds, oldest first; those not decided unless asked otherwise.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> --older-than 24h',
    '<%= config.bin %> <%= command.id %> --tenant herat-markaz --state all --json',
  ]
  static override flags = {
    state: Flags.option({ options: [...REFUND_STATES, 'all'] as const, default: 'requested' as const })({
      description: 'only refunds in this state',
    }),
    'older-than': durationFlag({ description: 'only those requested so long ago' }),
    tenant: Flags.string({ helpValue: '<tenant>', description: "this one's alone: slug or id" }),
    limit: Flags.integer({
      default: 100,
      min: 1,
      max: 100_000,
      helpValue: '<n>',
      description: 'at most this many',
    }),
  }

  async run(): Promise<void> {
    const { state, tenant, limit, 'older-than': olderThanMs } = this.flags
    const app = await this.openApp()
    const tenantId = tenant === undefined ? undefined : (await findTenant(app, tenant)).id
    const wanted = state === 'all' ? undefined : state
    const result = await listRefunds(app, { state: wanted, tenantId, olderThanMs, limit })
    this.succeed({
      result,
      text: () =>
        result.length === 0
          ? `${mark('ok')} no refund ${state === 'requested' ? 'waits for a decision' : 'in this state'}`
          : table(result, [
              'id',
              'tenant',
              'state',
              'amountMinor',
              'currency',
              'requestedAt',
              'requestedBy',
              'clinician',
              'decidedBy',
              'escalatedAt',
            ]),
    })
  }
}
