import { rotateDueKeys } from '../domain/keys/rotate-due.ts'
import { evictRevoked } from '../domain/sessions/evict.ts'
import { forgetJoinCounts } from '../domain/sessions/tally.ts'
import type { ScheduledWorker } from '../worker.ts'

export const keyRotation: ScheduledWorker = {
  name: 'key-rotation',
  describe:
    'moves rotations of signing keys on, starts one when a key is due; puts out whom a revoked key let in',
  cadence: { everyMs: 15_000 },
  // NATS only hastens what verifiers find out by themselves.
  needs: [],
  async pass(app) {
    // First: a key store that is away must keep nobody in.
    const evictions = await evictRevoked(app)
    const evicted = evictions.reduce((sum, { sessions }) => sum + sessions.length, 0)
    await forgetJoinCounts(app)
    return { ...(await rotateDueKeys(app, app.config.keys)), evicted }
  },
}
