import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'billing/FM-04',
  kind: 'alert',
  title: 'The terminology service is down and charge codes cannot be validated',
  severity: 'ticket',
})
