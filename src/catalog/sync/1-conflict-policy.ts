import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'sync/1',
  kind: 'guard',
  title: 'An aggregate does not follow its conflict policy',
  severity: 'ticket',
})
