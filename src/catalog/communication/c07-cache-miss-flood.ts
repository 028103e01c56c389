import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'communication/C07',
  kind: 'alert',
  title: 'Redis lost its cache and idempotency falls back to the database',
  severity: 'ticket',
})
