import { TabibCommand } from '../../command.ts'
import { makeWaiting } from '../../domain/messaging/request-message.ts'
import { type Drained, drainPreflight } from '../../domain/outbox/preflight.ts'
import { TabibError } from '../../errors.ts'
import { mark } from '../../render.ts'

export default class OutboxDrain extends TabibCommand<typeof OutboxDrain> {
  static override summary = 'Have what was accepted while Postgres took no writes made, in order and once.'
  static override description =
    'Empties the preflight of this host (outbox.preflight). What was refused for good before is tried once more; what is ' +
    'refused again stays aside, and the command exits 1. Any number of processes may drain at the same time.'
  static override examples = ['<%= config.bin %> <%= command.id %>']

  async run(): Promise<void> {
    const { db, config, erasureSecret } = await this.openApp()
    const { preflight } = config.outbox
    if (preflight === undefined) {
      throw new TabibError(
        'NOT_NEEDED',
        'no preflight is configured (outbox.preflight.folder): nothing waits on this host',
        { suggestions: ['docs/outbox.md'] },
      )
    }
    const result = await this.mutate(
      { targets: ['outbox:communication'], failureMode: 'communication/C05' },
      () =>
        drainPreflight(preflight.folder, {
          make: (write) => makeWaiting({ db, erasureSecret }, write),
          again: true,
          signal: this.signal,
        }),
    )
    this.signal.throwIfAborted()
    if (result.stopped !== undefined) {
      throw new TabibError('PARTIAL', `${result.drained} made, the rest waits: ${result.stopped}`, {
        suggestions: ['tabib outbox drain'],
        retryable: true,
      })
    }
    this.succeed({
      result,
      status: result.refused.length > 0 ? 'findings' : 'ok',
      text: () => drainedText(result),
    })
  }
}

const drainedText = ({ drained, erased, refused }: Drained): string =>
  [
    `${mark(refused.length > 0 ? 'warning' : 'ok')} ${drained} accepted writes made, ${refused.length} refused${erased > 0 ? `, ${erased} dropped: the patient was erased` : ''}`,
    ...refused.slice(0, 10).map(({ id, why }) => `    ${id}: ${why}`),
  ].join('\n')
