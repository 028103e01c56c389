import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'billing/FM-12',
  kind: 'alert',
  title: "The clocks of billing's pods are more than 500 ms apart",
  severity: 'ticket',
})
