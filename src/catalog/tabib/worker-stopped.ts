import { workersAlive } from '../../domain/workers/alive.ts'
import { failureMode } from '../failure-mode.ts'

export default failureMode({
  id: 'tabib/worker-stopped',
  kind: 'alert',
  title: 'A background worker has stopped',
  severity: 'page',
  detect: {
    metric: 'tabib_workers_alive_ratio',
    measure: async (app) => {
      const { ratio, stopped } = await workersAlive(app)
      return { value: ratio, evidence: stopped.length > 0 ? { stopped } : {} }
    },
    fires: { below: 1 },
    says: (ratio) => `${Math.round(ratio * 100)} % of the workers that should run have beaten in time`,
    for: '1m',
    entails: ['billing/FM-02', 'billing/FM-17', 'communication/C06', 'communication/C09', 'virtual-care/F12'],
  },
  mitigate: { command: ['worker', 'run', '--all', '--once'] },
  drill: {
    inject: async (world) => {
      const worker = await world.startWorkers(['outbox-relay'])
      worker.signal('SIGKILL')
      await worker.exited
      await world.db.query(`update tabib.worker_heartbeat set beat_at = beat_at - interval '1 hour'`)
      return worker
    },
    verify: async () => [],
  },
})
