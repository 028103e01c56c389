import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'billing/FM-10',
  kind: 'alert',
  title: 'Refunds wait for their approval for more than 24 hours',
  severity: 'page',
})
