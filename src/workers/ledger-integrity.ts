import { examineDocuments } from '../domain/ledger/documents.ts'
import { examineDuplicates } from '../domain/ledger/examine.ts'
import { stopDrift } from '../domain/ledger/stop-drift.ts'
import { verifyLedger } from '../domain/ledger/verify.ts'
import type { ScheduledWorker } from '../worker.ts'

export const ledgerIntegrity: ScheduledWorker = {
  name: 'ledger-integrity',
  describe: 'verifies the ledger every night, freezes an account that drifted and pages, seals what holds',
  cadence: { everyMs: 86_400_000, limitMs: 4 * 3_600_000 },
  needs: [],
  async pass(app, signal) {
    const {
      findings: drifts,
      facts,
      last,
    } = await verifyLedger(app, {}, { folder: app.config.ledger.seals, signal })
    const findings = [...drifts, ...(await examineDocuments(app.db, {}, last))]
    const { frozen, incidents } = await stopDrift(app, findings)
    const doubled = await examineDuplicates(app, {})
    return {
      ...facts,
      findings: findings.length + doubled.length,
      frozen: frozen.length,
      incidents: incidents.length,
    }
  },
}
