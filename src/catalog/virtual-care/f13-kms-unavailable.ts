import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'virtual-care/F13',
  kind: 'alert',
  title: 'The KMS is unavailable and join tokens cannot be signed',
  severity: 'page',
})
