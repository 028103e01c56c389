import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'virtual-care/F08',
  kind: 'guard',
  title: 'Two requests end one session',
  severity: 'info',
})
