import { watchPrices } from '../domain/prices/watch.ts'
import type { ScheduledWorker } from '../worker.ts'

export const priceWatch: ScheduledWorker = {
  name: 'price-watch',
  describe: 'opens a ticket for each price list that ends within 7 days and is not followed',
  cadence: { everyMs: 60_000 },
  needs: [],
  pass: (app) => watchPrices(app),
}
