import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'sync/3',
  kind: 'guard',
  title: 'A stale version changes a session instead of getting a 409',
  severity: 'ticket',
})
