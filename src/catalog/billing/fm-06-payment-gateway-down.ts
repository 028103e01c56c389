import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'billing/FM-06',
  kind: 'alert',
  title: 'The payment gateway is down and card and mobile-money payments fail',
  severity: 'page',
})
