import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'communication/C02',
  kind: 'alert',
  title: 'Push providers have sent no delivery feedback for 10 minutes',
  severity: 'ticket',
})
