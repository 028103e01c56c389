import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'virtual-care/F11',
  kind: 'guard',
  title: 'An offline client submits one async visit twice',
  severity: 'info',
})
