import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'communication/C06',
  kind: 'alert',
  title: 'JetStream is unavailable and the communication outbox is more than 30 s behind',
  severity: 'page',
})
