import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'communication/C16',
  kind: 'alert',
  title: "The clocks of communication's hosts are more than 500 ms apart",
  severity: 'ticket',
})
