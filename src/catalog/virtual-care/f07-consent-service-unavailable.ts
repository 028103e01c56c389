import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'virtual-care/F07',
  kind: 'guard',
  title: 'Consent cannot be checked and session creation is closed',
  severity: 'page',
})
