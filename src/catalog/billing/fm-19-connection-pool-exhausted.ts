import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'billing/FM-19',
  kind: 'alert',
  title: "Billing's database connection pool is exhausted",
  severity: 'page',
})
