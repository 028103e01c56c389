import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'billing/FM-15',
  kind: 'guard',
  title: 'A migration has switched row-level security off',
  severity: 'page',
})
