import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'billing/FM-01',
  kind: 'alert',
  title: 'The Postgres primary is down and billing takes no writes',
  severity: 'page',
})
