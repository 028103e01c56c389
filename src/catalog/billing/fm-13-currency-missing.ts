import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'billing/FM-13',
  kind: 'alert',
  title: 'A tenant was onboarded without a currency and its payments are rejected',
  severity: 'ticket',
})
