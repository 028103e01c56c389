import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'virtual-care/F12',
  kind: 'alert',
  title: 'JetStream is unavailable and the virtual care outbox is more than 5 minutes behind',
  severity: 'page',
})
