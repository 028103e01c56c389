import { TabibCommand } from '../../command.ts'
import { mark } from '../../render.ts'

export default class IdempotencyRestore extends TabibCommand<typeof IdempotencyRestore> {
  static override summary =
    'Put back idempotency keys of payments and charges that were deleted before their 24 hours.'
  static override description =
    'Each with its own time and the answer that was given, made of the payment or charge again. No payment is made.'
  static override examples = ['<%= config.bin %> <%= command.id %>']

  async run(): Promise<void> {
    const app = await this.openApp()
    const { restoreKeys } = await import('../../domain/payments/lost-keys.ts')
    const result = await this.mutate({ targets: ['billing.idempotency_key'] }, () => restoreKeys(app))
    const { restored } = result
    this.succeed({
      result,
      text: () =>
        restored === 0
          ? `${mark('ok')} every payment and charge of the last 24 hours has its key`
          : `${mark('ok')} ${restored} key${restored === 1 ? ' is' : 's are'} back`,
    })
  }
}
