import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'communication/C12',
  kind: 'guard',
  title: 'A participant of another tenant was added to a thread',
  severity: 'page',
})
