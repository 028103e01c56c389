import { reverseCertainDuplicates } from '../domain/ledger/reverse-duplicates.ts'
import type { ScheduledWorker } from '../worker.ts'

export const duplicateReversal: ScheduledWorker = {
  name: 'duplicate-reversal',
  describe: 'reverses charges that deduplication missed, and pages',
  cadence: { everyMs: 60_000 },
  needs: [],
  pass: (app) => reverseCertainDuplicates(app),
}
