import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'billing/FM-21',
  kind: 'guard',
  title: 'Data leaves the regions that a tenant allows',
  severity: 'page',
})
