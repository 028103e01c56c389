import { Args } from '@oclif/core'
import { moderate, planned, TabibCommand } from '../../command.ts'
import { parseTemplate, publishTemplate } from '../../domain/messaging/publish.ts'
import { mark } from '../../render.ts'
import { readTextFile } from '../../text-file.ts'

export default class MessagingPublish extends TabibCommand<typeof MessagingPublish> {
  static override summary = 'Put a new version of a message template into use.'
  static override description =
    `The file (YAML or JSON) names id, channel, category, subject, body with {places}, and the type of each place's variable. A version
never changes: what is published is a new one, for all tenants, and what says the same as the version in use is no new one.`
  static override examples = [
    '<%= config.bin %> <%= command.id %> appointment-reminder.yaml --dry-run',
    '<%= config.bin %> <%= command.id %> appointment-reminder.yaml --yes',
  ]
  static override args = { file: Args.string({ required: true, description: 'the template' }) }
  static override flags = { ...planned, ...moderate }

  async run(): Promise<void> {
    const template = parseTemplate(await readTextFile(this.args.file))
    const { id, channel, category, subject, body } = template
    const app = await this.openApp()
    const hash = await this.settlePlan({ publish: template }, () =>
      [`${id} by ${channel}, category ${category}:`, ...(subject ? [subject] : []), body].join('\n'),
    )
    if (hash === undefined) return
    await this.confirmModerate(`Sending ${id} to every tenant's patients as in ${this.args.file}`)
    const result = await this.mutate({ targets: [`template:${id}`], planHash: hash }, () =>
      publishTemplate(app, template, this.actor),
    )
    this.succeed({
      result: { id, ...result },
      text: () => `${mark('ok')} ${id} version ${result.version} is in use`,
    })
  }
}
