import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'communication/C19',
  kind: 'alert',
  title: 'Messages fail because their template does not exist',
  severity: 'ticket',
})
