import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'sync/2',
  kind: 'guard',
  title: "An async visit submitted again from offline is not the first one's no-op",
  severity: 'ticket',
})
