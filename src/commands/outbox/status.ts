import { Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { outboxStatus, type OutboxStatus as Status } from '../../domain/outbox/status.ts'
import { mark, table } from '../../render.ts'
import { SERVICES } from '../../service.ts'

export default class OutboxStatus extends TabibCommand<typeof OutboxStatus> {
  static override summary = 'Lag, backlog, relay and poison of every outbox; exit 1 when one needs a hand.'
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --service billing --json',
  ]
  static override flags = {
    service: Flags.option({ options: SERVICES })({ description: 'only this service' }),
  }

  async run(): Promise<void> {
    const app = await this.openApp()
    const services = this.flags.service ? [this.flags.service] : SERVICES
    const result = await Promise.all(services.map((service) => outboxStatus(app, { service })))
    this.succeed({
      result,
      status: result.every(({ state }) => state === 'ok') ? 'ok' : 'findings',
      text: () =>
        [
          table(result.map(line), ['service', 'state', 'pending', 'lag', 'relay', 'poison', 'held']),
          ...advice(result),
        ].join('\n'),
    })
  }
}

type Waiting = NonNullable<Status['preflight']>

const line = (status: Status) => ({
  ...status,
  lag: status.lagS === null ? null : `${status.lagS.toFixed(1)} s`,
})

function preflightAdvice({ waiting, oldestAt, refused, damaged, bytes, maxBytes }: Waiting): string[] {
  const lines: string[] = []
  if (waiting > 0) {
    const ageS = oldestAt ? Math.round((Date.now() - oldestAt.getTime()) / 1_000) : 0
    const full = `${Math.round((100 * bytes) / maxBytes)} % of the preflight`
    lines.push(
      `${mark('warning')} ${waiting} accepted writes wait outside Postgres, the oldest for ${ageS} s (${full})`,
    )
  }
  if (refused > 0) lines.push(`${mark('failed')} ${refused} accepted writes were refused for good`)
  if (damaged > 0) lines.push(`${mark('failed')} ${damaged} files of the preflight are damaged, and kept`)
  return lines.length > 0 ? [...lines, '    tabib outbox drain'] : []
}

function advice(all: Status[]): string[] {
  return all.flatMap((status) => {
    const lines: string[] = []
    if (status.note) lines.push(`${mark('failed')} ${status.note}`)
    for (const { reason, events, aggregateType, exampleId } of status.poisonBy) {
      lines.push(
        `${mark('warning')} ${status.service}: ${events} ${aggregateType} event${events === 1 ? '' : 's'} in quarantine, ${reason}`,
        `    tabib dlq show ${exampleId}`,
      )
    }
    if (status.preflight) lines.push(...preflightAdvice(status.preflight))
    if (status.state === 'not-relayed') {
      lines.push(`${mark('failed')} ${status.service}: events wait and no relay holds the lease`)
      lines.push('    tabib worker list', `    tabib outbox relay --service ${status.service}`)
    }
    if (status.state === 'behind') {
      lines.push(`${mark('warning')} ${status.service}: behind by ${status.lagS?.toFixed(0)} s`)
      lines.push('    tabib status billing/FM-02 billing/FM-17')
    }
    return lines
  })
}
