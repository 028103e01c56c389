import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'virtual-care/F02',
  kind: 'alert',
  title: 'The video backend was lost in the middle of sessions',
  severity: 'page',
})
