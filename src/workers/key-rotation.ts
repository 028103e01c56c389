import type { App } from '../app.ts'
import { recallRevocations } from '../domain/keys/revoke.ts'
import { rotateDueKeys } from '../domain/keys/rotate-due.ts'
import { evictRevoked } from '../domain/sessions/evict.ts'
import { forgetJoinTokens } from '../domain/sessions/join-token.ts'
import { forgetJoinCounts } from '../domain/sessions/tally.ts'
import { TabibError } from '../errors.ts'
import type { ScheduledWorker } from '../worker.ts'

/** NATS remembers what a restore of the database forgets; while it is away that waits. */
async function revokedAgain(app: App): Promise<number | string> {
  if (app.config.natsUrl === undefined) return 0
  return recallRevocations(app).catch((error) => {
    if (error instanceof TabibError && error.code === 'NATS_UNREACHABLE') return error.message
    throw error
  })
}

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
    await forgetJoinTokens(app)
    const rotated = await rotateDueKeys(app, app.config.keys)
    return { ...rotated, evicted, revokedAgain: await revokedAgain(app) }
  },
}
