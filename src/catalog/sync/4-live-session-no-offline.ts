import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'sync/4',
  kind: 'guard',
  title: 'A lost live session does not fail over after its grace window',
  severity: 'ticket',
})
