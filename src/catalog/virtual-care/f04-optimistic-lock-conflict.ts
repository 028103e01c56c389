import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'virtual-care/F04',
  kind: 'guard',
  title: 'Two clients change one session at the same time',
  severity: 'info',
})
