import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'communication/C03',
  kind: 'alert',
  title: 'More than 5 % of e-mail bounces',
  severity: 'page',
})
