import { Flags } from '@oclif/core'
import { durationFlag, TabibCommand } from '../../command.ts'
import { listAudit } from '../../domain/audit/list.ts'
import { uuidFlag } from '../../flags.ts'
import { table } from '../../render.ts'

export default class AuditList extends TabibCommand<typeof AuditList> {
  static override summary = 'what was changed, by whom and why, newest first'
  static override examples = [
    '<%= config.bin %> <%= command.id %> --since 24h',
    '<%= config.bin %> <%= command.id %> --command "dlq redrive" --json',
  ]
  static override flags = {
    since: durationFlag({ description: 'only records of this last while' }),
    run: uuidFlag({ description: 'only records of this run' }),
    command: Flags.string({ helpValue: '<command>', description: 'only records of this command' }),
    actor: Flags.string({ helpValue: '<name>', description: 'only records of this operator' }),
    limit: Flags.integer({
      default: 50,
      min: 1,
      max: 10_000,
      helpValue: '<n>',
      description: 'at most this many',
    }),
  }

  async run(): Promise<void> {
    const { since, run, command, actor, limit } = this.flags
    const result = await listAudit(await this.openApp(), {
      limit,
      sinceMs: since,
      runId: run,
      command,
      actor,
    })
    this.succeed({
      result,
      text: () => {
        if (result.length === 0) return 'no audit records'
        const rows: Record<string, unknown>[] = result.map((one) => ({
          ...one,
          proved: one.actorProof === undefined ? '' : 'by key',
        }))
        return table(rows, [
          'seq',
          'ts',
          'actor',
          'proved',
          'command',
          'targets',
          'phase',
          'outcome',
          'reason',
        ])
      },
    })
  }
}
