import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'communication/C08',
  kind: 'alert',
  title: 'Attachments wait for the virus scanner in a growing queue',
  severity: 'ticket',
})
