import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'virtual-care/F09',
  kind: 'alert',
  title: 'A patient dropped out of a session and has not come back',
  severity: 'info',
})
