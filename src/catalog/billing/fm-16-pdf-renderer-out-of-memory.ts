import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'billing/FM-16',
  kind: 'alert',
  title: 'The PDF renderer runs out of memory on a large right-to-left statement',
  severity: 'ticket',
})
