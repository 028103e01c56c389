import { rotateDueKeys } from '../domain/keys/rotate-due.ts'
import type { ScheduledWorker } from '../worker.ts'

export const keyRotation: ScheduledWorker = {
  name: 'key-rotation',
  describe: 'moves rotations of signing keys on, starts one when a key is old, tainted or missing',
  cadence: { everyMs: 15_000 },
  // NATS only hastens what verifiers find out by themselves.
  needs: [],
  pass: (app) => rotateDueKeys(app, app.config.keys),
}
