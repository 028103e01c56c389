import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'billing/FM-07',
  kind: 'alert',
  title: "An account's balance is not the sum of its ledger entries",
  severity: 'page',
})
