import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'communication/C20',
  kind: 'alert',
  title: 'A recording could not be taken in',
  severity: 'ticket',
})
