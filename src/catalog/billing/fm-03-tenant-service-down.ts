import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'billing/FM-03',
  kind: 'alert',
  title: 'The tenant service is down and entitlements cannot be checked',
  severity: 'page',
})
