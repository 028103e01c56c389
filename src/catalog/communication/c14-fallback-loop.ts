import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'communication/C14',
  kind: 'alert',
  title: 'Failing sessions spawn fallback threads in a loop',
  severity: 'ticket',
})
