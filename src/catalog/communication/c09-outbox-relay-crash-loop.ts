import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'communication/C09',
  kind: 'alert',
  title: 'The communication outbox relay is not alive',
  severity: 'page',
})
