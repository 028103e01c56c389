import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'billing/FM-14',
  kind: 'alert',
  title: 'A price list ends within 7 days and nothing follows it',
  severity: 'ticket',
})
