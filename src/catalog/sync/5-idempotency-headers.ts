import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'sync/5',
  kind: 'guard',
  title: 'A repeated Idempotency-Key does not return the first response',
  severity: 'ticket',
})
