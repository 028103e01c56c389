import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'virtual-care/F10',
  kind: 'alert',
  title: "The external video provider's quota is used up",
  severity: 'ticket',
})
