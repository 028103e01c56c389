import { Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { type Relayed, relayUntilEmpty } from '../../domain/outbox/relay-until-empty.ts'
import { outboxSource } from '../../domain/outbox/source.ts'
import { mark } from '../../render.ts'
import { SERVICES, type Service } from '../../service.ts'

export default class OutboxRelay extends TabibCommand<typeof OutboxRelay> {
  static override summary = 'Publish what waits in the outboxes, once; a relay that is at work is left to it.'
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --service billing',
  ]
  static override flags = {
    service: Flags.option({ options: SERVICES })({ description: 'only this service' }),
  }

  async run(): Promise<void> {
    const app = await this.openApp('relay')
    const services = this.flags.service ? [this.flags.service] : SERVICES
    const holder = `${this.actor} ${process.pid} ${this.runId}`
    const result = await this.mutate(
      { targets: services.map((service) => `outbox:${service}`) },
      async () => {
        const results: (Relayed & { service: Service })[] = []
        for (const service of services) {
          const source = outboxSource(service, app.config.outbox.tables[service])
          const { poison } = app.config.outbox
          const relayed = await relayUntilEmpty(app, { source, holder, poison }, { signal: this.signal })
          results.push({ service, ...relayed })
        }
        return results
      },
    )
    this.signal.throwIfAborted()
    this.succeed({ result, text: () => result.map(line).join('\n') })
  }
}

function line(result: Relayed & { service: Service }): string {
  if (result.kind === 'standby') return `${mark('ok')} ${result.service}: relayed by ${result.holder}`
  const { service, published, quarantined, held } = result
  const aside = quarantined + held > 0 ? `, ${quarantined} in quarantine, ${held} held behind them` : ''
  return `${mark(quarantined > 0 ? 'warning' : 'ok')} ${service}: ${published} published${aside}`
}
