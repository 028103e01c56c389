import { Flags } from '@oclif/core'
import { TabibCommand } from '../../command.ts'
import { readOperatorKeys } from '../../domain/approval/operator.ts'
import { requireResidency } from '../../domain/residency/gate.ts'
import { type JournalRecord, readJournal, takenRecords, takeRecord } from '../../domain/residency/journal.ts'
import { TabibError } from '../../errors.ts'
import { counted, mark, table } from '../../render.ts'

export default class ResidencyJournal extends TabibCommand<typeof ResidencyJournal> {
  static override summary = 'Take what was done while no database took writes into the audit trail.'
  static override description =
    'Every record of residency.journal that two operators signed, in order and once; ops and compliance are told of each. ' +
    'With --offline it verifies them by residency.operators and needs no server. Exit 1 when one is not believed.'
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --offline',
  ]
  static override flags = {
    offline: Flags.boolean({ description: 'verify alone, with no server' }),
  }

  async run(): Promise<void> {
    const { journal: folder, operators } = requireResidency(await this.loadConfig())
    if (folder === undefined || (this.flags.offline && operators === undefined)) {
      const missing = folder === undefined ? 'journal' : 'operators'
      throw new TabibError('CONFIG_INVALID', `residency.${missing} is not set`, {
        suggestions: ['docs/residency.md'],
      })
    }
    const app = await this.openApp()
    const { records, broken } = await readJournal(
      this.flags.offline ? { operators: await readOperatorKeys(operators!) } : app,
      folder,
    )
    const states = this.flags.offline ? new Map<string, string>() : await this.#take(records)
    const rows = [
      ...records.map(({ name, iat, iss, consent, target, reason, runId }) => ({
        record: name,
        at: new Date(iat * 1_000).toISOString(),
        target,
        actor: iss,
        approver: consent.iss,
        state: states.get(runId) ?? 'signed by both',
        reason,
      })),
      ...broken.map(({ name, why }) => ({ record: name, state: 'not believed', reason: why })),
    ].sort((a, b) => (a.record < b.record ? -1 : 1)) as Record<string, unknown>[]
    this.succeed({
      result: { folder, records: rows },
      status: broken.length > 0 ? 'findings' : 'ok',
      text: () =>
        rows.length === 0
          ? `${mark('ok')} nothing was recorded in ${folder}`
          : table(rows, ['record', 'at', 'target', 'actor', 'approver', 'state', 'reason']),
      warnings:
        broken.length > 0
          ? [
              `${counted(broken.length, 'record')} not believed: somebody changed the journal, or an operator is gone`,
            ]
          : [],
    })
  }

  /** What became of each record, by its run. */
  async #take(records: readonly JournalRecord[]): Promise<Map<string, string>> {
    const app = await this.openApp()
    const known = await takenRecords(app, records)
    const pending = records.filter(({ runId }) => !known.has(runId))
    const states = new Map([...known].map((runId) => [runId, 'in the audit trail']))
    for (const record of pending) {
      const { taken } = await takeRecord(app, record)
      states.set(record.runId, taken ? 'taken now' : 'in the audit trail')
    }
    return states
  }
}
