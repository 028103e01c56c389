import { Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { mark } from '../../render.ts'

export default class IdempotencyWarm extends TabibCommand<typeof IdempotencyWarm> {
  static override summary = 'Put the answers of the last 24 hours back into the cache.'
  static override description =
    'After Redis was flushed, evicted or started again: the newest first. Without it each retry puts its own answer back.'
  static override examples = ['<%= config.bin %> <%= command.id %>']
  static override flags = {
    limit: Flags.integer({
      min: 1,
      default: 100_000,
      helpValue: '<n>',
      description: 'at most so many answers; an answer takes about half a kilobyte of Redis',
    }),
  }

  async run(): Promise<void> {
    const app = await this.openApp()
    const { warmCache } = await import('../../domain/idempotency/warm.ts')
    const { limit } = this.flags
    const result = await this.mutate({ targets: ['cache:idempotency'] }, () =>
      warmCache(app, { limit, signal: this.signal }),
    )
    this.signal.throwIfAborted()
    this.succeed({ result, text: () => `${mark('ok')} ${result.warmed} answers are in the cache` })
  }
}
