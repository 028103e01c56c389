import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'communication/C13',
  kind: 'alert',
  title: 'A provider floods the delivery-report callback',
  severity: 'ticket',
})
