import { plannedMode } from '../failure-mode.ts'

export default plannedMode({
  id: 'virtual-care/F14',
  kind: 'alert',
  title: 'The AI gateway is unavailable and transcripts and drafts are missing',
  severity: 'ticket',
})
