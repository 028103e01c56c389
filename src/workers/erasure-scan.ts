import { scanContent, tellContent } from '../domain/erasure/content.ts'
import type { ScheduledWorker } from '../worker.ts'

export const erasureScan: ScheduledWorker = {
  name: 'erasure-scan',
  describe: 'reads all text and JSON in search of what erased patients are known by, in whatever encoding',
  cadence: { everyMs: 86_400_000, limitMs: 21_600_000 },
  needs: ['nats'],
  async pass(app, signal) {
    const scan = await scanContent(app, { signal })
    await tellContent(app, scan)
    const { found, unread, ...figures } = scan
    return { ...figures, found: found.length, unread: unread.length }
  },
}
