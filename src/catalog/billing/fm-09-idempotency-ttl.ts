import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'billing/FM-09',
  kind: 'alert',
  title: 'Idempotency keys expire too early and a retry is posted twice',
  severity: 'page',
})
