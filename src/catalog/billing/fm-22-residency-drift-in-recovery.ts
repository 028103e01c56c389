import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'billing/FM-22',
  kind: 'guard',
  title: 'Disaster recovery would put patient data into a wrong region',
  severity: 'page',
})
