import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'virtual-care/F05',
  kind: 'alert',
  title: 'A session ended and its encounter is still missing after 30 minutes',
  severity: 'ticket',
})
