import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'billing/FM-08',
  kind: 'guard',
  title: 'One charge event has been captured twice',
  severity: 'page',
})
