import { deliverPages } from '../domain/incident/deliver.ts'
import type { ScheduledWorker } from '../worker.ts'

export const pager: ScheduledWorker = {
  name: 'pager',
  describe: 'pages open incidents once each, and passes their resolution on',
  cadence: { everyMs: 5_000 },
  needs: [],
  pass: (app) => deliverPages(app),
}
