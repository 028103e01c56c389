import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'communication/C05',
  kind: 'alert',
  title: 'The communication database takes no writes',
  severity: 'page',
})
