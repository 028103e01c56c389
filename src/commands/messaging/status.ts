import { TabibCommand } from '../../command.ts'
import { messagingStatus } from '../../domain/messaging/status.ts'
import { WAITING_TOO_LONG_S } from '../../domain/messaging/waiting.ts'
import { mark, table } from '../../render.ts'

export default class MessagingStatus extends TabibCommand<typeof MessagingStatus> {
  static override summary =
    'Messages that wait or never went out, categories that are halted, and the templates in use.'
  static override description =
    `A category is halted for a tenant when patient data was found in its messages, before one was sent or in a log; nothing of it
goes out until somebody resumes it. Messages are counted by channel and category: those that wait, and how many of them a provider
has refused for now; of the last seven days those that failed for good, and those that expired before they could be sent.
Exit 1 when a category is halted, a template has no version in use, or a refused message has waited for 15 minutes.`
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --json',
  ]

  async run(): Promise<void> {
    const app = await this.openApp()
    const result = await messagingStatus(app)
    const { halted, messages, templates } = result
    const silent = templates.filter(({ current }) => current === null)
    const stuck = messages.filter(({ refusedS }) => (refusedS ?? 0) > WAITING_TOO_LONG_S)
    this.succeed({
      result,
      status: halted.length + silent.length + stuck.length > 0 ? 'findings' : 'ok',
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
          ...(messages.length === 0
            ? []
            : [
                table(
                  messages.map(({ category, oldestS, errors, ...counts }) => ({
                    ...{ category: category ?? '(no template)', ...counts },
                    oldest: oldestS === null ? '' : `${oldestS} s`,
                    refused: `${counts.refused}${errors.length > 0 ? ` (${errors.join(', ')})` : ''}`,
                  })),
                  ['channel', 'category', 'scheduled', 'waiting', 'oldest', 'refused', 'failed', 'expired'],
                ),
              ]),
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
          ...(stuck.length === 0 ? [] : ['Next: tabib messaging retry, once the provider is back']),
          ...halted.map(
            ({ tenant, category }) =>
              `Next: tabib messaging resume ${category} --tenant ${tenant} --confirm ${tenant}/${category} --reason "<why>"`,
          ),
        ].join('\n\n'),
    })
  }
}
