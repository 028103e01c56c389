import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'billing/FM-20',
  kind: 'alert',
  title: 'Signing keys were rotated before verifiers had the new key',
  severity: 'page',
})
