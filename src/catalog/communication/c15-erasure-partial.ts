import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'communication/C15',
  kind: 'alert',
  title: 'An erasure request missed data in the dispatch log',
  severity: 'ticket',
})
