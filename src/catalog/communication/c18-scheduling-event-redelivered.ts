import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'communication/C18',
  kind: 'guard',
  title: 'A scheduling event delivered twice has made two sessions',
  severity: 'ticket',
})
