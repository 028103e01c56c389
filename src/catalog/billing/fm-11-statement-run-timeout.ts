import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'billing/FM-11',
  kind: 'alert',
  title: 'A statement run did not finish in time',
  severity: 'ticket',
})
