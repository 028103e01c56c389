import { TabibCommand } from '../../command.ts'
import { messagingStatus } from '../../domain/messaging/status.ts'
import { mark, table } from '../../render.ts'

export default class MessagingStatus extends TabibCommand<typeof MessagingStatus> {
  static override summary = 'Categories of messages that are halted, and the templates in use.'
  static override description =
    `A category is halted for a tenant when patient data was found in its messages, before one was sent or in a log; nothing of it
goes out until somebody resumes it. Exit 1 when one is halted, or a template has no version in use.`
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --json',
  ]

  async run(): Promise<void> {
    const app = await this.openApp()
    const result = await messagingStatus(app)
    const { halted, templates } = result
    const silent = templates.filter(({ current }) => current === null)
    this.succeed({
      result,
      status: halted.length + silent.length > 0 ? 'findings' : 'ok',
      text: () =>
        [
          halted.length === 0
            ? `${mark('ok')} no category is halted`
            : table(
                halted.map(({ tenant, category, haltedAt, findings, incidentId }) => ({
                  tenant,
                  category,
                  since: haltedAt.toISOString(),
                  findings,
                  incident: incidentId ?? '(not yet: tabib messaging scan)',
                })),
                ['tenant', 'category', 'since', 'findings', 'incident'],
              ),
          ...(templates.length === 0
            ? []
            : [
                table(
                  templates.map(({ id, channel, category, current, retired }) => ({
                    template: id,
                    channel,
                    category,
                    'in use': current === null ? 'none: nothing is sent' : `version ${current}`,
                    retired: retired.join(', '),
                  })),
                  ['template', 'channel', 'category', 'in use', 'retired'],
                ),
              ]),
          ...halted.map(
            ({ tenant, category }) =>
              `Next: tabib messaging resume ${category} --tenant ${tenant} --confirm ${tenant}/${category} --reason "<why>"`,
          ),
        ].join('\n\n'),
    })
  }
}
