import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'communication/C10',
  kind: 'alert',
  title: 'Join tokens fail verification at a rate that suggests forgery',
  severity: 'page',
})
