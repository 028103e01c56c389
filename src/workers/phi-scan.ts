import { watchPatientData } from '../domain/messaging/watch.ts'
import type { ScheduledWorker } from '../worker.ts'

export const phiScan: ScheduledWorker = {
  name: 'phi-scan',
  describe:
    'reads the dispatch log and log files for patient data; halts its category, and takes its template out of use',
  cadence: { everyMs: 15_000 },
  needs: [],
  pass: (app, signal) => watchPatientData(app, { signal }),
}
