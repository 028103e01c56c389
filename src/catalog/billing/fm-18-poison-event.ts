import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'billing/FM-18',
  kind: 'alert',
  title: 'A poison event could not be consumed and is in quarantine',
  severity: 'page',
})
