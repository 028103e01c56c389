import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'communication/C11',
  kind: 'guard',
  title: 'A push notification would carry patient data',
  severity: 'page',
})
