import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'virtual-care/F03',
  kind: 'guard',
  title: 'A join token is used after it expired',
  severity: 'info',
})
