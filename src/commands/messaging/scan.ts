import { Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { watchPatientData } from '../../domain/messaging/watch.ts'
import { mark } from '../../render.ts'

export default class MessagingScan extends TabibCommand<typeof MessagingScan> {
  static override summary = 'Read the dispatch log, and log files, for patient data now; halt what leaks.'
  static override description =
    `What the phi-scan worker does every 15 seconds. Each attempt and each line is read once; where one holds patient data, its
category is halted for its tenant, an incident is opened that says where and of what kind, and the template's version is taken out
of use for the one before it.`
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --log /var/log/communication/worker.log',
  ]
  static override flags = {
    log: Flags.string({
      multiple: true,
      multipleNonGreedy: true,
      helpValue: '<file>',
      description: 'a log file, besides those of messaging.logs in the configuration',
    }),
  }

  async run(): Promise<void> {
    const app = await this.openApp()
    const logs = [...app.config.messaging.logs, ...(this.flags.log ?? [])]
    const details = {
      targets: ['dispatch-log', ...logs.map((path) => `log:${path}`)],
      failureMode: 'communication/C11',
    }
    const result = await this.mutate(details, () => watchPatientData(app, { logs, signal: this.signal }))
    const { attempts, lines, findings, incidents, rotated } = result
    this.succeed({
      result,
      text: () =>
        [
          `${mark('ok')} read: ${attempts} attempts, ${lines} lines`,
          ...(findings === 0 ? [] : [`contained: ${findings} findings, ${incidents} new incidents`]),
          ...rotated.map(({ template, retired, current }) =>
            current === null
              ? `${template}: version ${retired} is retired and none is in use; tabib messaging publish <file>`
              : `${template}: version ${retired} is retired, version ${current} is in use`,
          ),
          ...(findings === 0 ? [] : ['Next: tabib messaging status']),
        ].join('\n'),
    })
  }
}
