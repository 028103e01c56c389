import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'communication/C17',
  kind: 'guard',
  title: 'An attachment above the size budget is refused',
  severity: 'info',
})
