import { Args, Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { revealQuarantined, showQuarantined } from '../../domain/dlq/show.ts'
import { TabibError } from '../../errors.ts'
import { details, toJson } from '../../render.ts'

export default class DlqShow extends TabibCommand<typeof DlqShow> {
  static override summary = 'One event in quarantine: why, how often, and what of its payload may be shown.'
  static override description =
    'Names, phones and free text are masked. --reveal shows the payload whole; who saw it and why is audited.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> 01930f6e-7c1a-7d2e-9b1f-3a5c6d7e8f90',
    '<%= config.bin %> <%= command.id %> 01930f6e-7c1a-7d2e-9b1f-3a5c6d7e8f90 --reveal --reason "INC-42: wrong price code"',
  ]
  static override args = {
    id: Args.string({ required: true, description: 'id in quarantine, from dlq list' }),
  }
  static override flags = {
    reveal: Flags.boolean({ description: 'show the payload whole, patient data included' }),
    reason: Flags.string({ helpValue: '<text>', description: 'why it is revealed, for the audit trail' }),
  }

  async run(): Promise<void> {
    const { id } = this.args
    const { reveal } = this.flags
    const app = await this.openApp()
    const event = await showQuarantined(app, id)
    if (!reveal) {
      this.succeed({ result: event, text: () => textOf({ ...event }) })
      return
    }
    const reason = this.flags.reason?.trim() ?? ''
    if (reason === '') {
      throw new TabibError('REASON_REQUIRED', 'a payload with patient data is shown for a reason only', {
        suggestions: [`tabib dlq show ${id} --reveal --reason "<why>"`],
        context: { missingFlag: '--reason' },
      })
    }
    const revealed = await this.mutate({ targets: [`quarantine:${id}`], reason }, () =>
      revealQuarantined(app, id),
    )
    const result = { ...event, ...revealed }
    this.succeed({ result, text: () => textOf(result) })
  }
}

function textOf({ redacted, ...event }: Record<string, unknown>): string {
  const shown = event.payload === undefined ? `\n${toJson(redacted)}` : ''
  return `${details(event)}${shown}`
}
