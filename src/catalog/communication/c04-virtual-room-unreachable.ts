import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'communication/C04',
  kind: 'alert',
  title: 'Virtual rooms cannot be reached and sessions fail',
  severity: 'page',
})
