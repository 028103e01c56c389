import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'communication/SLO',
  kind: 'alert',
  title: 'More than half of the 30-day error budget burned within 7 days',
  severity: 'ticket',
})
