import { findReturned, reopenReturned } from '../domain/erasure/returned.ts'
import type { ScheduledWorker } from '../worker.ts'

export const erasureSweep: ScheduledWorker = {
  name: 'erasure-sweep',
  describe: 'looks for whoever was erased and is there again, by keyed hash, and erases them again',
  cadence: { everyMs: 3_600_000, limitMs: 1_800_000 },
  needs: [],
  async pass(app, signal) {
    const [erased] = await app.db.query('select from tabib.erasure_subject limit 1')
    if (erased === undefined) return { returned: 0, reopened: 0 }
    const systems = { db: app.db, secret: await app.erasureSecret() }
    const returned = await findReturned(systems, { signal })
    return { returned: returned.length, reopened: await reopenReturned(systems, returned) }
  },
}
