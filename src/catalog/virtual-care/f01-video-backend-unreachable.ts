import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'virtual-care/F01',
  kind: 'alert',
  title: 'No video backend answers and sessions cannot be created',
  severity: 'page',
})
