import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'virtual-care/F06',
  kind: 'alert',
  title: "A session's recording was not stored",
  severity: 'ticket',
})
