import { Flags } from '@oclif/core'
import { moderate, planned, TabibCommand } from '../../command.ts'
import { planRetry, type RetryPlan, retryMessages } from '../../domain/messaging/retry.ts'
import { CHANNELS } from '../../domain/messaging/template.ts'
import { mark } from '../../render.ts'

export default class MessagingRetry extends TabibCommand<typeof MessagingRetry> {
  static override summary = 'Try again now what a provider has refused for now.'
  static override description =
    `What an SMS gateway, a push service or a mail server could not take waits longer from one attempt to the next, up to ten
minutes. Once it is back this makes due whatever would wait longer than two; the message-dispatch worker sends it.`
  static override examples = [
    '<%= config.bin %> <%= command.id %> --dry-run',
    '<%= config.bin %> <%= command.id %> --channel sms --yes',
  ]
  static override flags = {
    channel: Flags.option({ options: CHANNELS, description: "this one's alone" })(),
    ...planned,
    ...moderate,
  }

  async run(): Promise<void> {
    const { channel } = this.flags
    const app = await this.openApp()
    const plan = await planRetry(app, { channel })
    const hash = await this.settlePlan(plan, () => planText(plan))
    if (hash === undefined) return
    let due = 0
    if (Object.keys(plan.waiting).length > 0) {
      this.note(planText(plan))
      await this.confirmModerate('Trying them again now')
      const targets = Object.keys(plan.waiting).map((one) => `channel:${one}`)
      const details = { targets, planHash: hash, failureMode: 'tabib/messages-waiting' }
      due = await this.mutate(details, () => retryMessages(app, { channel }))
    }
    this.succeed({
      result: { ...plan, due },
      text: () => `${mark('ok')} ${due === 0 ? NOTHING : `${due} messages are due now`}`,
    })
  }
}

const NOTHING = 'no message would wait longer than two minutes for its next attempt'

const planText = ({ waiting }: RetryPlan): string =>
  Object.entries(waiting)
    .map(([channel, n]) => `${channel}: ${n} messages are tried again now`)
    .join('\n') || NOTHING
