import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'billing/FM-05',
  kind: 'alert',
  title: "The FHIR gateway is down and billing's writes to it are retried",
  severity: 'ticket',
})
