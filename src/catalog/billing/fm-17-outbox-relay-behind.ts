import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'billing/FM-17',
  kind: 'alert',
  title: 'The billing outbox relay is more than 30 s behind',
  severity: 'page',
})
